"""The graph of a model with a shape on every tensor that can be given one."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from passes import defaults
from passes.branches import take_branches
from passes.errors import GraphError
from passes.export import outlined
from passes.fold import fold_constants
from passes.inline import inlined
from passes.lazy import LARGE, External, Inline, Lazy, stored_bytes
from passes.ops import rules
from passes.shapes import INFERRED, annotate, check, check_declared, inferred
from passes.subgraphs import bodies
from passes.tensors import Array, describe

# Bytes of the largest element.
_MOST = 16


def shaped(model: onnx.ModelProto, graph: gs.Graph | None = None) -> gs.Graph:
    """A graph of its own, constants folded; `model` is left as it is, and lends its weights.

    graph: that of the model, where it is at hand, which is then changed and returned.

    Computed shape operands hide sizes until they are folded, so shapes are inferred again after that. Raises
    GraphError when shapes contradict each other, or what the model declares.
    """
    model = inlined(defaults.opened(model))
    graph = _imported(model) if graph is None else graph
    outline = model
    light = inferred(outline)
    annotate(graph, light)
    for _ in range(8):  # what is folded gives sizes, and sizes give more to fold
        if not fold_constants(graph) | take_branches(graph):
            break
        outline = outlined(graph, model, INFERRED)
        light = inferred(outline)
        annotate(graph, light)
    check_declared(model, light)
    for node in graph.nodes:
        wrong = rules(node).contradiction(node)
        if wrong:
            raise GraphError(f"The shapes at node `{describe(node)}` contradict each other: {wrong}.")
    check(outline, light)
    return graph


def _imported(model: onnx.ModelProto) -> gs.Graph:
    """The graph, with weights that are read as they lie in the model."""
    with G_LOGGER.suppress():  # it speaks of types that numpy lacks on standard output
        graph = gs.import_onnx(model)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and type(tensor._values) is LazyValues:
            stored = tensor._values.tensor
            if (values := _lazy(stored)) is not None:
                tensor._values = values
            elif isinstance(tensor.dtype, int) or stored.HasField("raw_data"):
                tensor._values = _Stored(stored)
    for tensor in _exported_elsewhere(graph):
        if type(tensor._values) in (LazyValues, _Stored):
            tensor._values = _lazy(tensor._values.tensor) or _Lent(tensor._values.tensor)
    return graph


def _lazy(stored: onnx.TensorProto) -> Lazy | None:
    """What reads the tensor whenever it is asked for, None where it is small and at hand."""
    if stored.data_location == onnx.TensorProto.EXTERNAL:
        return External(stored)
    # asking for `raw_data`, were it for its length, copies it
    large = stored.HasField("raw_data") and _MOST * prod(stored.dims) >= LARGE and stored_bytes(stored) >= LARGE
    return Inline(stored) if large else None


def _exported_elsewhere(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Constants that onnx-graphsurgeon itself writes, which puts names into what they were read from."""
    for body in bodies(graph):
        for node in body.nodes:
            yield from (t for t in node.inputs if isinstance(t, gs.Constant))
    for scope in (graph, *bodies(graph)):
        for node in scope.nodes:
            yield from (value for value in node.attrs.values() if isinstance(value, gs.Constant))


class _Stored(LazyValues):  # type: ignore[misc]
    """Values in the type that numpy has for them since `ml_dtypes`, and copied no more often than need be."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        self.tensor = tensor
        self.shape = list(tensor.dims)
        self.dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)

    def load(self) -> Array:
        return onnx.numpy_helper.to_array(self.tensor)


class _Lent(LazyValues):  # type: ignore[misc]
    """The same, and whoever asks for the tensor gets a copy."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        self._stored = _Stored(tensor)
        self.shape, self.dtype = self._stored.shape, self._stored.dtype

    @property
    def tensor(self) -> onnx.TensorProto:
        """A copy, to be renamed."""
        copy = onnx.TensorProto()
        copy.CopyFrom(self._stored.tensor)
        return copy

    def load(self) -> Array:
        return self._stored.load()
