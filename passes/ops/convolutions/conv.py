"""Plain convolutions."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap, Sliding
from passes.graph.tensors import operand
from passes.ops.base import Op, register
from passes.ops.convolutions.computed_weights import ComputedWeights, is_computed
from passes.ops.convolutions.convolution import Convolution
from passes.rewriting.channel_facts import Facts


@register("Conv")
class Conv(Convolution):
    """Weights [out, in / group, *kernel]; FLOPs: output elements · (2 · kernel · in / group - 1), + 1 with a bias."""

    foldable = True
    scope = "place"

    def form(self, node: gs.Node) -> Op:
        return _OF_COMPUTED_WEIGHTS if is_computed(operand(node, 1)) else self

    def sliding(self, node: gs.Node, facts: Facts, known: ConstantMap) -> tuple[Sliding, ConstantMap] | None:
        over = self.windows(node)
        sizes = [facts.dim(node.inputs[0], a + 2) for a in range(len(over or ()))]
        return None if over is None else (Sliding(over, sizes), known)


class _ConvOfComputedWeights(ComputedWeights, Conv):
    cost = Conv.cost


_OF_COMPUTED_WEIGHTS = _ConvOfComputedWeights()
