"""Pooling and reductions over positions: each channel by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap, Sliding, averaged, extreme, whole
from passes.abstract_values.slices import ConstantSlices, Link, Maps
from passes.abstract_values.symbolic_sizes import Extent, Window, slid, spatial_windows
from passes.graph.tensors import Array, volume
from passes.ops.base import Linked, register
from passes.ops.movement import same_axis
from passes.rewriting.channel_facts import Facts


class Pool(Linked):
    """Windows over the spatial axes of each channel."""

    foldable = True
    reason = "pools each channel by itself"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, [(0, 0), (1, 1)]) if len(node.outputs) == 1 else []

    def windows(self, node: gs.Node) -> list[Window] | None:
        """The windows over the spatial axes, None if they are not understood."""
        kernel = node.attrs.get("kernel_shape")
        return None if kernel is None else spatial_windows(tuple(kernel), node.attrs)

    def extent(self, node: gs.Node, facts: Facts, output: int, axis: int) -> Extent | None:
        return slid(facts.span(node.inputs[0], axis), self.windows(node), axis)

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        known, over = facts.maps(node.inputs[0], 1), self.windows(node)
        if known is None or over is None or len(node.outputs) > 1:
            return
        pooled = self.pooled(node, known, Sliding(over, [facts.span(node.inputs[0], a + 2) for a in range(len(over))]))
        if pooled is not None:
            yield 0, 1, pooled

    def pooled(self, node: gs.Node, known: ConstantMap, sliding: Sliding) -> ConstantMap | None:
        """The maps that pooling makes of these; None if they are not known."""
        return None

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        x, over = operands[0], self.windows(node)
        if x is None or not x.size or over is None or len(node.outputs) > 1:
            return None
        sizes = x.shape[2:]
        result = self.pooled(node, whole(x.reshape(-1, 1, *sizes), 0), Sliding(over, sizes))
        if result is None:
            return None
        values = result.expanded()
        return [values.reshape(*x.shape[:2], *values.shape[2:])]

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """One FLOP per element of each window; without one, of the input."""
        kernel = node.attrs.get("kernel_shape")
        return volume(node.inputs[0]) if kernel is None else volume(node.outputs[0]) * math.prod(kernel), 0


@register("MaxPool")
class MaxPool(Pool):
    """Padding never wins, so a constant channel stays constant."""

    def pooled(self, node: gs.Node, known: ConstantMap, sliding: Sliding) -> ConstantMap | None:
        found = sliding.over(known, float("-inf")) if known.value.dtype.kind == "f" else None
        return None if found is None else ConstantMap(known.mask, found[1].max(axis=sliding.inner), found[0])


@register("AveragePool")
class AveragePool(Pool):
    """A constant channel stays constant unless padding is counted."""

    def pooled(self, node: gs.Node, known: ConstantMap, sliding: Sliding) -> ConstantMap | None:
        found = sliding.over(known, 0.0)
        if found is None:
            return None
        index, windows = found
        if node.attrs.get("count_include_pad", 0):
            mean = windows.mean(axis=sliding.inner, dtype=np.float64)
        else:
            ones = sliding.over(ConstantMap(known.mask, np.ones_like(known.value), known.index), 0.0)
            assert ones is not None
            counts, totals = (w.sum(axis=sliding.inner, dtype=np.float64) for w in (ones[1], windows))
            mean = totals / counts
        return ConstantMap(known.mask, mean.astype(known.value.dtype), index)

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        pads = any(node.attrs.get("pads", [])) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        even = not node.attrs.get("count_include_pad", 0) or not (pads or node.attrs.get("ceil_mode", 0))
        return known if even else known.only(0)


@register("LpPool")
class LpPool(Pool):
    """The norm of each window: only zero is known to stay what it is, the rest are maps."""

    preserves = "zeros"

    def pooled(self, node: gs.Node, known: ConstantMap, sliding: Sliding) -> ConstantMap | None:
        found = sliding.over(known, 0.0)
        if found is None:
            return None
        p = int(node.attrs.get("p", 2))
        total = (np.abs(found[1].astype(np.float64)) ** p).sum(axis=sliding.inner)
        return ConstantMap(known.mask, (total ** (1 / p)).astype(known.value.dtype), found[0])


@register("GlobalAveragePool", "GlobalMaxPool")
class GlobalPool(Pool):
    """The mean or maximum of a constant is the constant."""

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        x = operands[0]
        if x is None:
            return None
        mean = node.op == "GlobalAveragePool"
        axes = tuple(range(2, x.ndim))
        result = x.mean(axis=axes, keepdims=True, dtype=np.float64) if mean else x.max(axis=axes, keepdims=True)
        return [np.asarray(result.astype(x.dtype))]

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        known = facts.maps(node.inputs[0], 1) if 1 in facts.constant_map.get(node.inputs[0].name, {}) else None
        if known is None:
            return
        pooled = (averaged if node.op == "GlobalAveragePool" else extreme)(known, range(1, len(known.index)))
        if pooled is not None:
            yield 0, 1, pooled


@register("GlobalLpPool")
class GlobalLpPool(LpPool):
    """Only zero is known to stay what it is."""


@register("InstanceNormalization")
class InstanceNormalization(Linked):
    """Statistics over the positions of each channel: a constant channel becomes its bias."""

    foldable = True
    reason = "normalises each channel by itself"
    flops_per_element = 7  # mean, centring, variance (2), normalising, scale and bias

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        size = facts.size(node.outputs[0], 1)
        if size is None or any(facts.size(node.inputs[i], a) != size for i, a in ((0, 1), (1, 0), (2, 0))):
            return []
        return [*same_axis(node, facts, [(0, 0), (1, 1)]), Link(1, 0, 0, 1), Link(2, 0, 0, 1)]

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        bias = facts.known(node.inputs[2], 0)
        if link.input != 0 or link.input_axis != 1 or bias is None:
            return None
        return ConstantSlices(known.mask & bias.mask, bias.value)
