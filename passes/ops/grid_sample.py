"""Values sampled at computed coordinates: each channel by itself."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import ConstantSlices, Link
from passes.graph.tensors import shape_of, volume
from passes.ops.base import Linked, register
from passes.ops.movement import same_axis
from passes.rewriting.channel_facts import Facts


class Sampled(Linked):
    """Channels pass through. A sample outside counts as zero, so that of constants only zero stays what it is."""

    reason = kept_reasons.EACH_BY_ITSELF

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return known.only(0) if link.input == 0 else None


@register("MaxRoiPool", "RoiAlign")
class RegionPool(Sampled):
    """One result for each region, which names its example."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        regions = facts.size(node.outputs[0], 0)
        found = same_axis(node, facts, [(1, 1)])
        if regions is not None and all(facts.size(t, 0) == regions for t in node.inputs[1:]):
            found += [Link(i, 0, 0, 0) for i in range(1, len(node.inputs))]
        return found

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Eight for the four weighted neighbours of a sample, or one comparison."""
        ratio = int(node.attrs.get("sampling_ratio", 0)) or 1
        return volume(node.outputs[0]) * (8 * ratio**2 if node.op == "RoiAlign" else 1), 0


@register("GridSample")
class GridSample(Sampled):
    """Places in an operand [batch, *sizes, dimensions]."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        found = same_axis(node, facts, [(1, 1)])
        for axis in [a for a in range(rank) if a != 1]:
            size, grid = facts.size(node.outputs[0], axis), max(axis - 1, 0)
            if size is None or facts.size(node.inputs[1], grid) != size:
                continue
            if axis > 0:
                found.append(Link(1, grid, 0, axis))
            elif facts.size(node.inputs[0], 0) == size:
                found += [Link(1, 0, 0, 0), Link(0, 0, 0, 0)]
        return found

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Two for each weighted neighbour of a sample."""
        rank = len(shape_of(node.inputs[0]) or ())
        each = {"nearest": 0, "cubic": 4, "bicubic": 4}.get(str(node.attrs.get("mode", "linear")), 2)
        return volume(node.outputs[0]) * 2 * each ** max(rank - 2, 0), 0
