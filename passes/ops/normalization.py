"""Normalisation over axes: what is normalised over is whole, the other axes pass through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from passes.ops.base import Known, Link, Linked, register
from passes.ops.movement import same_axis
from passes.tensors import shape_of, volume

if TYPE_CHECKING:
    from passes.facts import Facts


@register("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
class LayerNormalization(Linked):
    """Statistics over the axes from `axis` on."""

    reason = "normalises along another axis"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank or len([t for t in node.outputs if not t.is_empty()]) > 1:
            return []
        return same_axis(node, facts, [(a, a) for a in range(int(node.attrs.get("axis", -1)) % rank)])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return None

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Mean, centring, variance (2), normalising, scale and bias: seven per element."""
        return 7 * volume(node.outputs[0]), 0


@register("LpNormalization")
class LpNormalization(LayerNormalization):
    """Norm along one axis."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return []
        axis = int(node.attrs.get("axis", -1)) % rank
        return same_axis(node, facts, [(a, a) for a in range(rank) if a != axis])

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Square, add, divide: three per element."""
        return 3 * volume(node.outputs[0]), 0
