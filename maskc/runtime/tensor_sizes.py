"""Elements and windows inside a model at given input sizes, before it is run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from maskc.frontend.graph_queries import copied
from maskc.runtime.random_inputs import Port
from passes.abstract_values.windows import spatial_windows
from passes.errors import GraphError
from passes.model.declarations import dims_of, written_by_unknown
from passes.model.element_inference import with_elements
from passes.model.outline import outline
from passes.sizes.prepare import shaped

Shapes = Mapping[str, Sequence[int | str | None] | None]

# Where a Tile repeats more often than this, sizes that onnx does not infer are looked for.
_OFTEN = 2**16

_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})


class TensorSizes:
    """Answers for sizes by symbol, from what onnx infers at them.

    `compiled` is the model that is run beside it, in which more sizes may be known, as they have been computed.
    """

    def __init__(self, model: ModelProto, ports: Sequence[Port], compiled: ModelProto | None = None) -> None:
        self._compiled = None if compiled is None else TensorSizes(compiled, ports)
        self._model = outline(model)
        graph = self._model.graph
        believed = written_by_unknown(graph)
        noted = [value for value in graph.value_info if value.name in believed]
        del graph.value_info[:]
        graph.value_info.extend(noted)
        symbols = {port.name: iter(port.symbols()) for port in ports}
        for value in graph.input:
            for dim in value.type.tensor_type.shape.dim if value.name in symbols else ():
                if not dim.HasField("dim_value"):
                    dim.dim_param = next(symbols[value.name])
        repeats = {node.input[1] for node in graph.node if node.op_type == "Tile" and len(node.input) > 1}
        times = (math.prod(map(int, numpy_helper.to_array(t).ravel())) for t in graph.initializer if t.name in repeats)
        self._repeats_often = any(number > _OFTEN for number in times)
        self._inferred: tuple[Mapping[str, int], Shapes] | None = None

    def largest(self, sizes: Mapping[str, int]) -> int:
        """The elements of the largest tensor, sizes that are not inferred taken as 1."""
        shapes = (dims for dims in self._at(sizes).values() if dims is not None)
        own = max((math.prod(dim for dim in dims if isinstance(dim, int)) for dims in shapes), default=0)
        return own if self._compiled is None else max(own, self._compiled.largest(sizes))

    def windows_fit(self, sizes: Mapping[str, int]) -> bool:
        """Whether each window of a convolution or pooling fits its padded input at least once, as far as is known.

        ONNX counts no place for one that does not. ONNX Runtime pools over the part that there is.
        """
        nodes = [node for node in self._model.graph.node if node.op_type in _POOLS or node.op_type == "Conv"]
        return not nodes or all(place > 0 for node in nodes for place in _places(node, self._at(sizes)))

    def _at(self, sizes: Mapping[str, int]) -> Shapes:
        """The shapes of all tensors by name, empty where onnx objects to a model that a runtime may take."""
        if self._inferred is not None and self._inferred[0] == sizes:
            return self._inferred[1]
        model = copied(self._model)
        for value in (*model.graph.input, *model.graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        shapes: dict[str, Sequence[int | str | None] | None] = {}
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            graph = with_elements(model).graph
            shapes = {value.name: dims_of(value) for value in (*graph.input, *graph.value_info, *graph.output)}
            shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        if self._repeats_often and any(not isinstance(dim, int) for dims in shapes.values() for dim in dims or [None]):
            with contextlib.suppress(GraphError):  # what is folded tells more, and takes longer
                shapes |= {tensor.name: tensor.shape for node in shaped(model).nodes for tensor in node.outputs}
        self._inferred = dict(sizes), shapes
        return shapes


def _places(node: NodeProto, shapes: Shapes) -> Iterator[int]:
    """How many places each of the node's windows has on its input, where that is known."""
    attrs = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    data, weights = shapes.get(node.input[0]), shapes.get(node.input[1]) if node.op_type == "Conv" else None
    kernel = [size for size in attrs.get("kernel_shape") or (weights or ())[2:] if isinstance(size, int)]
    if data is None or len(kernel) != len(data) - 2:
        return
    for window, size in zip(spatial_windows(tuple(kernel), attrs) or (), data[2:], strict=False):
        if isinstance(size, int):
            yield int(window.outs(np.array([size]))[0])
