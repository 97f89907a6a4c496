"""Normalisation over neighbouring channels or groups of them: these stay whole, what is known of them does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.ops.base import Constants, Known, Link, Linked, Reads, register
from passes.ops.movement import same_axis
from passes.tensors import Mask, volume

if TYPE_CHECKING:
    from passes.facts import Facts


@register("LRN")
class LocalResponseNormalization(Linked):
    """x / (bias + alpha / size · sum of squares of `size` channels around)^beta: zero stays zero.

    Source: ONNX operator specification, LRN.
    """

    reason = "divides by its neighbours along the channels"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(node.outputs[0].shape or ())
        return same_axis(node, facts, [(a, a) for a in range(rank) if a != 1])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return self._zeros(node, known)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        known = facts.known(node.inputs[0], 1)
        if known is not None:
            yield 0, 1, self._zeros(node, known)

    @staticmethod
    def _zeros(node: gs.Node, known: Known) -> Known:
        positive = node.attrs.get("bias", 1.0) > 0 and node.attrs.get("alpha", 1e-4) >= 0
        return Known(known.mask & (known.value == 0) & positive, known.value)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        live = facts.live(node.outputs[0], 1)
        if live.size:
            yield 0, 1, self._around(live, int(node.attrs["size"]))

    @staticmethod
    def _around(live: Mask, size: int) -> Mask:
        """Channels that lie in the window of a live one."""
        need = np.zeros(live.shape, bool)
        for channel in np.flatnonzero(live):
            need[max(channel - (size - 1) // 2, 0) : channel + size // 2 + 1] = True
        return need

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Square, add each of the window, raise, divide."""
        return volume(node.outputs[0]) * (3 + int(node.attrs["size"])), 0


@register("GroupNormalization")
class GroupNormalization(Linked):
    """Statistics over the positions of a group of channels; only the examples pass through.

    A scale of zero leaves the bias, and so does a group that holds one constant altogether. Before opset 21 scale and
    bias are given for each group.
    """

    reason = "normalises along another axis"
    like = "InstanceNormalization"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, [(0, 0)])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return None

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        size, groups = facts.size(node.outputs[0], 1), int(node.attrs["num_groups"])
        scale, bias = (self._each(facts, t, size or 0, groups) for t in node.inputs[1:3])
        if not size or scale is None or bias is None:
            return
        mask = scale.mask & (scale.value == 0)
        known = facts.known(node.inputs[0], 1)
        if known is not None:
            value = known.value.reshape(groups, -1)
            whole = known.mask.reshape(groups, -1).all(axis=1) & (value == value[:, :1]).all(axis=1)
            mask = mask | np.repeat(whole, size // groups)
        yield 0, 1, Known(np.asarray(mask & bias.mask), bias.value)

    @staticmethod
    def _each(facts: Facts, tensor: gs.Tensor, size: int, groups: int) -> Known | None:
        """What is known of scale or bias, one for each channel."""
        known = facts.known(tensor, 0)
        if known is None or known.mask.size not in (groups, size):
            return None
        times = size // known.mask.size
        return Known(np.repeat(known.mask, times), np.repeat(known.value, times))

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        live = facts.live(node.outputs[0], 1)
        groups = int(node.attrs["num_groups"])
        if live.size and live.size % groups == 0:
            yield 0, 1, np.repeat(live.reshape(groups, -1).any(axis=1), live.size // groups)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Mean, centring, variance (2), normalising, scale and bias: seven per element."""
        return 7 * volume(node.outputs[0]), 0
