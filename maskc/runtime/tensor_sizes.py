"""Elements and windows inside a model at given input sizes, before it is run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache

import onnx_graphsurgeon as gs
from onnx import ModelProto

from maskc.runtime.random_inputs import Port
from passes.abstract_values.polynomial import sizes_at
from passes.errors import GraphError
from passes.graph.tensors import shape_of
from passes.model.outline import outline
from passes.sizes.graph_at_sizes import agreeing, graph_at, values_of_symbols, windows_fit
from passes.sizes.prepare import shaped


class TensorSizes:
    """Answers for sizes by symbol, from the formulas of sizes in the graph.

    `compiled` is the model that is run beside it. What is not known of the model may be there, where it was computed.
    """

    def __init__(self, model: ModelProto, ports: Sequence[Port], compiled: ModelProto | None = None) -> None:
        self._ports = ports
        self._beside = cache(lambda: None if compiled is None else TensorSizes(compiled, ports))
        self._model, self._graph = outline(model), gs.Graph()
        with suppress(GraphError):  # a runtime may take it
            self._graph = shaped(self._model)

    def largest(self, sizes: Mapping[str, int]) -> int:
        """The elements of the largest tensor, sizes that are not known taken as 1."""
        tensors = [*self._graph.inputs, *(t for node in self._graph.nodes for t in node.outputs if not t.is_empty())]
        shapes, values = {shape_of(tensor) for tensor in tensors}, self._values(sizes)
        found = [sizes_at(shape or (), values) for shape in shapes]
        own = max(map(_elements, found), default=0)
        if tensors and None not in shapes and not any(None in each for each in found):
            return own
        beside = self._beside()
        return own if beside is None else max(own, beside.largest(sizes))

    def windows_fit(self, sizes: Mapping[str, int], *, padded: bool = True) -> bool:
        """Whether each window of a convolution or pooling fits its padded input at least once, as far as is known.

        ONNX counts no place for one that does not. ONNX Runtime pools over the part that there is. Of one that does
        not fit its input without padding some weights may see nothing else.
        """
        fit = windows_fit(self._graph, self._values(sizes), padded=padded)
        if fit is not None or padded:
            return fit is not False
        try:
            shapes = {port.name: port.shape(sizes) for port in self._ports}
            return windows_fit(graph_at(self._model, self._graph, shapes), padded=False) is not False
        except GraphError:
            return False

    def agreeing(self, sizes: Mapping[str, int], keep: Collection[str]) -> Mapping[str, int]:
        """The sizes, changed where operands inside must have some in common, but for those to `keep`."""
        inputs = {port.name: port.keys() for port in self._ports}
        return agreeing(self._graph, inputs, sizes, keep)

    def _values(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return values_of_symbols(self._graph, {port.name: port.shape(sizes) for port in self._ports})


def _elements(sizes: Sequence[int | None]) -> int:
    return math.prod(1 if size is None else max(size, 0) for size in sizes)
