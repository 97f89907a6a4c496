"""Elements and windows inside a model at given input sizes, before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

import onnx_graphsurgeon as gs
from onnx import ModelProto

from maskc.runtime.random_inputs import Port
from passes.abstract_values.polynomial import sizes_at
from passes.errors import GraphError, SizeError
from passes.graph.tensors import shape_of
from passes.model.outline import outline
from passes.sizes.graph_at_sizes import graph_at, values_of_symbols, windows_fit
from passes.sizes.prepare import shaped


class TensorSizes:
    """Answers for sizes by symbol.

    `compiled` is the model that is run beside it, in which more sizes may be known, as they have been computed.
    """

    def __init__(self, model: ModelProto, ports: Sequence[Port], compiled: ModelProto | None = None) -> None:
        self._compiled = None if compiled is None else TensorSizes(compiled, ports)
        self._model, self._ports = outline(model), ports
        self._graph = gs.Graph()
        with suppress(GraphError):  # a runtime may take it
            self._graph = shaped(self._model)
        self._last: tuple[Mapping[str, int], gs.Graph | None] | None = None

    def largest(self, sizes: Mapping[str, int]) -> int:
        """The elements of the largest tensor, sizes that are not known taken as 1."""
        graph, values = self._at(sizes) or self._graph, values_of_symbols(self._graph, self._shapes(sizes))
        tensors = (*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs))
        own = max((_elements(tensor, values) for tensor in tensors), default=0)
        return own if self._compiled is None else max(own, self._compiled.largest(sizes))

    def windows_fit(self, sizes: Mapping[str, int]) -> bool:
        """Whether each window of a convolution or pooling fits its padded input at least once, as far as is known.

        ONNX counts no place for one that does not. ONNX Runtime pools over the part that there is.
        """
        graph = self._at(sizes)
        return graph is not None and windows_fit(graph)

    def _at(self, sizes: Mapping[str, int]) -> gs.Graph | None:
        """The graph at these sizes; None where the model does not work at them."""
        if self._last is None or self._last[0] != sizes:
            graph = None
            with suppress(GraphError, SizeError):
                graph = graph_at(self._model, self._graph, self._shapes(sizes), fits=True, gives_up=True)
            self._last = dict(sizes), graph
        return self._last[1]

    def _shapes(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        return {port.name: port.shape(sizes) for port in self._ports}


def _elements(tensor: gs.Tensor, values: Mapping[str, int]) -> int:
    sizes = sizes_at(shape_of(tensor) or (), values)
    return math.prod(1 if size is None else max(size, 0) for size in sizes)
