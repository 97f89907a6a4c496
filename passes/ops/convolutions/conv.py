"""Plain convolutions."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import ConstantMap, Sliding
from passes.abstract_values.slices import Demand, Demands, Maps, Reads, Sets
from passes.graph.tensors import operand, rank_of
from passes.ops.base import Op, register
from passes.ops.convolutions.computed_weights import ComputedWeights, is_computed
from passes.ops.convolutions.convolution import Convolution
from passes.ops.movement import maps_by_slices
from passes.rewriting.channel_facts import Facts


@register("Conv")
class Conv(Convolution):
    """Weights [out, in / group, *kernel]; FLOPs: output elements · (2 · kernel · in / group - 1), + 1 with a bias."""

    foldable = True
    scope = "place"

    def form(self, node: gs.Node) -> Op:
        return _OF_COMPUTED_WEIGHTS if is_computed(operand(node, 1)) else self

    def apart(self, node: gs.Node, facts: Facts) -> list[int]:
        """The axes along which the operator does the same at each position by itself, as where tokens are channels."""
        x, y = node.inputs[0], node.outputs[0]
        if not (self.has_stored_weights(node) and 1 in self._kernel(node) and self.understood_shapes(node, facts)):
            return []
        windows = enumerate(self.windows(node) or (), 2)
        single = [axis for axis, w in windows if (w.reach, w.stride, w.pads) == (0, 1, False)]
        return [
            axis for axis in single if facts.size(x, axis) is not None and facts.size(x, axis) == facts.size(y, axis)
        ]

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        yield from super().maps(node, facts)
        if apart := self.apart(node, facts):
            along = {*range(1, rank_of(node.outputs[0]))} - {*apart}
            yield from maps_by_slices(node, facts, along)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        yield from ((0, axis, facts.live(node.outputs[0], axis)) for axis in self.apart(node, facts))

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        apart = {(0, axis): asked[0, axis] for axis in self.apart(node, facts) if (0, axis) in asked}
        return super().storable_outputs(node, facts, asked) | apart

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        keys = [(0, axis) for axis in self.apart(node, facts) if (0, axis) in stored]
        apart = {key: Demand(stored[key], reason=kept_reasons.EACH_BY_ITSELF, echo=key) for key in keys}
        return super().required_inputs(node, facts, stored) | apart

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [(0, axis)] if axis in self.apart(node, facts) else super().carries(node, facts, output, axis)

    def sliding(self, node: gs.Node, facts: Facts, known: ConstantMap) -> tuple[Sliding, ConstantMap] | None:
        over = self.windows(node)
        sizes = [facts.dim(node.inputs[0], a + 2) for a in range(len(over or ()))]
        return None if over is None else (Sliding(over, sizes), known)


class _ConvOfComputedWeights(ComputedWeights, Conv):
    cost = Conv.cost


_OF_COMPUTED_WEIGHTS = _ConvOfComputedWeights()
