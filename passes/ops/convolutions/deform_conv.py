"""Convolutions at places that are computed."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.tensors import operand, product, shape_of, volume
from passes.ops.base import register
from passes.ops.contractions.labels import Terms
from passes.ops.convolutions.computed_weights import ComputedWeights


@register("DeformConv")
class DeformConv(ComputedWeights):
    """Weights [out, in / group, *kernel], at places that are computed once for all channels."""

    bias = 3

    def terms(self, node: gs.Node) -> Terms | None:
        return super().terms(node) if node.attrs.get("offset_group", 1) == 1 else None

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """As of Conv, and one for each factor of a sum that is scaled."""
        out, depth = volume(node.outputs[0]), product((shape_of(node.inputs[1]) or ())[1:])
        biased, scaled = (operand(node, index) is not None for index in (self.bias, 4))
        return out * (2 * depth - 1 + biased + scaled * depth), out * depth
