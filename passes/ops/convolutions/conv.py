"""Plain convolutions."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap, Sliding
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule
from passes.abstract_values.windows import Window, kernel_windows, positions
from passes.graph.tensors import operand, product, shape_of, volume
from passes.ops.base import Op, register
from passes.ops.convolutions.computed_weights import ComputedWeights, is_computed
from passes.ops.convolutions.convolution import Convolution
from passes.rewriting.channel_facts import Facts


@register("Conv")
class Conv(SizeRule, Convolution):
    """Weights [out, in / group, *kernel]; FLOPs: output elements · (2 · kernel · in / group - 1), + 1 with a bias."""

    foldable = True
    scope = "place"

    def form(self, node: gs.Node) -> Op:
        return _OF_COMPUTED_WEIGHTS if is_computed(operand(node, 1)) else self

    def windows(self, node: gs.Node) -> list[Window] | None:
        """The windows over the spatial axes, None if they are not understood."""
        return kernel_windows(shape_of(node.inputs[1]) or (), node.attrs)

    def sliding(self, node: gs.Node, facts: Facts, known: ConstantMap) -> tuple[Sliding, ConstantMap] | None:
        over = self.windows(node)
        sizes = [facts.dim(node.inputs[0], a + 2) for a in range(len(over or ()))]
        return None if over is None else (Sliding(over, sizes), known)

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        weights = shape_of(node.inputs[1])
        return positions(shape_of(node.inputs[0]), self.windows(node), weights[0] if weights else None)

    def spreads_evenly(self, node: gs.Node) -> bool:
        auto = node.attrs.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            return all(k == 1 for k in self._kernel(node))
        return auto == "VALID" or not any(node.attrs.get("pads", []))

    def cost(self, node: gs.Node) -> tuple[int, int]:
        out = volume(node.outputs[0])
        depth = product((shape_of(node.inputs[1]) or ())[1:])
        return out * (2 * depth - 1) + (out if operand(node, 2) is not None else 0), out * depth


class _ConvOfComputedWeights(ComputedWeights, Conv):
    cost = Conv.cost


_OF_COMPUTED_WEIGHTS = _ConvOfComputedWeights()
