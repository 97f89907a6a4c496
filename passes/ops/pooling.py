"""Pooling and reductions over positions: each channel by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.ops.base import Known, Link, Linked, register
from passes.ops.movement import same_axis
from passes.tensors import volume

if TYPE_CHECKING:
    from passes.facts import Facts


class Pool(Linked):
    """Windows over the spatial axes of each channel."""

    reason = "pools each channel by itself"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, [(0, 0), (1, 1)]) if len(node.outputs) == 1 else []

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """One FLOP per element of each window."""
        return volume(node.outputs[0]) * int(np.prod(node.attrs.get("kernel_shape", [1]))), 0


@register("MaxPool")
class MaxPool(Pool):
    """Padding never wins, so a constant channel stays constant."""


@register("AveragePool")
class AveragePool(Pool):
    """A constant channel stays constant unless padding is counted."""

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        pads = any(node.attrs.get("pads", [])) or node.attrs.get("auto_pad", "NOTSET") not in (
            "NOTSET",
            "VALID",
        )
        even = not node.attrs.get("count_include_pad", 0) or not (pads or node.attrs.get("ceil_mode", 0))
        return known if even else Known(known.mask & (known.value == 0), known.value)


@register("LpPool")
class LpPool(Pool):
    """Only zero is known to stay what it is."""

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return Known(known.mask & (known.value == 0), known.value)


@register("GlobalAveragePool", "GlobalMaxPool")
class GlobalPool(Pool):
    """The mean or maximum of a constant is the constant."""

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return volume(node.inputs[0]), 0


@register("GlobalLpPool")
class GlobalLpPool(LpPool):
    """Only zero is known to stay what it is."""

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return volume(node.inputs[0]), 0


@register("InstanceNormalization")
class InstanceNormalization(Linked):
    """Statistics over the positions of each channel: a constant channel becomes its bias."""

    reason = "normalises each channel by itself"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        size = facts.size(node.outputs[0], 1)
        if size is None or any(facts.size(node.inputs[i], a) != size for i, a in ((0, 1), (1, 0), (2, 0))):
            return []
        return [*same_axis(node, facts, [(0, 0), (1, 1)]), Link(1, 0, 0, 1), Link(2, 0, 0, 1)]

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        bias = facts.known(node.inputs[2], 0)
        if link.input != 0 or link.input_axis != 1 or bias is None:
            return None
        return Known(known.mask & bias.mask, bias.value)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Mean, centring, variance (2), normalising, scale and bias: seven per element."""
        return 7 * volume(node.outputs[0]), 0
