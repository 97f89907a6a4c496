"""Pooling and reductions over positions: each channel by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.ops.base import Known, Link, Linked, register
from passes.ops.movement import same_axis
from passes.patterns import Pattern, Window, averaged, spatial_windows, uniform, windows
from passes.tensors import Array, shape_of, volume

if TYPE_CHECKING:
    from passes.facts import Facts


class Pool(Linked):
    """Windows over the spatial axes of each channel."""

    foldable = True
    reason = "pools each channel by itself"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, [(0, 0), (1, 1)]) if len(node.outputs) == 1 else []

    def maps(self, node: gs.Node, facts: Facts) -> Iterator[tuple[int, Pattern]]:
        known = facts.maps(node.inputs[0])
        outs = [facts.size(node.outputs[0], a) for a in range(2, len(shape_of(node.outputs[0]) or ()))]
        static = [s for s in outs if s]
        if known is None or len(static) < len(outs) or len(node.outputs) > 1 or node.attrs.get("ceil_mode", 0):
            return
        sizes = [i.size for i in known.index]
        over = spatial_windows(sizes, static, node.attrs.get("kernel_shape", sizes), node.attrs)
        pooled = self.pooled(node, known, over)
        if pooled is not None:
            yield 0, pooled

    def pooled(self, node: gs.Node, known: Pattern, over: list[Window]) -> Pattern | None:
        """The maps that pooling makes of these."""
        return None

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        x, shape = operands[0], shape_of(node.outputs[0]) or ()
        outs = [d for d in shape[2:] if isinstance(d, int)]
        if x is None or len(node.outputs) > 1 or len(outs) < x.ndim - 2 or node.attrs.get("ceil_mode", 0):
            return None
        sizes = x.shape[2:]
        over = spatial_windows(sizes, outs, node.attrs.get("kernel_shape", sizes), node.attrs)
        flat = x.reshape(-1, *sizes)
        maps = Pattern(np.ones(len(flat), bool), flat, tuple(np.arange(s) for s in sizes))
        result = self.pooled(node, maps, over)
        return None if result is None else [result.expanded().reshape(*x.shape[:2], *outs)]

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """One FLOP per element of each window."""
        return volume(node.outputs[0]) * int(np.prod(node.attrs.get("kernel_shape", [1]))), 0


@register("MaxPool")
class MaxPool(Pool):
    """Padding never wins, so a constant channel stays constant."""

    def pooled(self, node: gs.Node, known: Pattern, over: list[Window]) -> Pattern | None:
        if known.value.dtype.kind != "f":
            return None
        index, seen = windows(known, over, float("-inf"))
        return Pattern(known.mask, seen.max(axis=tuple(range(-len(over), 0))), index)


@register("AveragePool")
class AveragePool(Pool):
    """A constant channel stays constant unless padding is counted."""

    def pooled(self, node: gs.Node, known: Pattern, over: list[Window]) -> Pattern | None:
        inner = tuple(range(-len(over), 0))
        index, seen = windows(known, over, 0.0)
        if node.attrs.get("count_include_pad", 0):
            return Pattern(known.mask, seen.mean(axis=inner, dtype=np.float64).astype(known.value.dtype), index)
        ones = Pattern(known.mask, np.ones_like(known.value), known.index)
        count = windows(ones, over, 0.0)[1].sum(axis=inner, dtype=np.float64)
        total = seen.sum(axis=inner, dtype=np.float64)
        return Pattern(known.mask, (total / count).astype(known.value.dtype), index)

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        pads = any(node.attrs.get("pads", [])) or node.attrs.get("auto_pad", "NOTSET") not in (
            "NOTSET",
            "VALID",
        )
        even = not node.attrs.get("count_include_pad", 0) or not (pads or node.attrs.get("ceil_mode", 0))
        return known if even else Known(known.mask & (known.value == 0), known.value)


@register("LpPool")
class LpPool(Pool):
    """The norm of each window: only zero is known to stay what it is, the rest are maps."""

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return Known(known.mask & (known.value == 0), known.value)

    def pooled(self, node: gs.Node, known: Pattern, over: list[Window]) -> Pattern | None:
        p = int(node.attrs.get("p", 2))
        index, seen = windows(known, over, 0.0)
        total = (np.abs(seen.astype(np.float64)) ** p).sum(axis=tuple(range(-len(over), 0)))
        return Pattern(known.mask, (total ** (1 / p)).astype(known.value.dtype), index)


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

    def maps(self, node: gs.Node, facts: Facts) -> Iterator[tuple[int, Pattern]]:
        if node.inputs[0].name not in facts.pattern:
            return
        known = facts.maps(node.inputs[0])
        if known is None:
            return
        if node.op == "GlobalAveragePool":
            yield 0, averaged(known)
        else:
            highest = known.value.reshape(len(known.mask), -1).max(axis=1)
            yield 0, uniform(known.mask, highest, [1] * len(known.index))

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
