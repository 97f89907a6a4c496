"""Pooling and reductions over positions: each channel by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import ConstantMap, Sliding, averaged, extreme, whole
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule
from passes.abstract_values.slices import ConstantSlices, Demands, Dependences, Link, Maps, Sets
from passes.abstract_values.windows import Window, positions, positions_rounded_up, spatial_windows, windows_rounded_up
from passes.graph.editor import Change
from passes.graph.tensors import Array, Index, dimensions, shape_of, volume
from passes.ops.base import Linked, register
from passes.ops.movement import same_axis
from passes.ops.traits import DependenceTransfer, passed_on
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering
from passes.rewriting.lower_ops import Rewriter

# Of what is pooled: examples, channels and one of positions.
_LEAST_AXES = 3


class Pool(SizeRule, Linked, Reordering):
    """Windows over the spatial axes of each channel."""

    foldable = True
    reason = kept_reasons.EACH_BY_ITSELF

    def contradiction(self, node: gs.Node) -> str:
        shape = shape_of(node.inputs[0])
        short = shape is not None and len(shape) < _LEAST_AXES
        return f"its input has {len(shape or ())} axes, and needs examples, channels and positions" if short else ""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, [(0, 0), (1, 1)]) if len(node.outputs) == 1 else []

    def windows(self, node: gs.Node) -> list[Window] | None:
        """The windows over the spatial axes, None if they are not understood."""
        kernel = node.attrs.get("kernel_shape")
        return None if kernel is None else spatial_windows(tuple(kernel), node.attrs)

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        shape = shape_of(node.inputs[0])
        channels = shape[1] if shape and len(shape) > 1 else None
        if node.attrs.get("ceil_mode", 0) and "kernel_shape" in node.attrs:
            return positions_rounded_up(shape, tuple(node.attrs["kernel_shape"]), node.attrs, channels)
        return positions(shape, self.windows(node), channels)

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        return orders.written(node.inputs[0], 1, order) if axis == 1 == len(node.outputs) else None

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        return orders.read(node.outputs[0], 1, order) if axis == 1 == len(node.outputs) else None

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        known, over = facts.maps(node.inputs[0], 1), self.windows(node)
        if known is None or over is None or len(node.outputs) > 1:
            return
        pooled = self.pooled(node, known, Sliding(over, [facts.dim(node.inputs[0], a + 2) for a in range(len(over))]))
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

    may_overflow = False
    scope = "place"

    def windows(self, node: gs.Node) -> list[Window] | None:
        if node.attrs.get("ceil_mode", 0) and "kernel_shape" in node.attrs:
            return windows_rounded_up(tuple(node.attrs["kernel_shape"]), node.attrs)
        return super().windows(node)

    def pooled(self, node: gs.Node, known: ConstantMap, sliding: Sliding) -> ConstantMap | None:
        found = sliding.over(known, float("-inf")) if known.value.dtype.kind == "f" else None
        return None if found is None else ConstantMap(known.mask, found[1].max(axis=sliding.inner), found[0])


@register("AveragePool")
class AveragePool(Pool, DependenceTransfer):
    """A constant channel stays constant unless padding is counted."""

    scope = "place"

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        yield from passed_on(node, facts, means=self._is_even(node))

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
        return known if self._is_even(node) else known.only(0)

    @staticmethod
    def _is_even(node: gs.Node) -> bool:
        pads = any(node.attrs.get("pads", [])) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        return not node.attrs.get("count_include_pad", 0) or not (pads or node.attrs.get("ceil_mode", 0))


@register("LpPool", "GlobalLpPool")
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


class GlobalPool(Pool):
    """One number of all positions."""

    scope = "example"

    def over_all(self, known: ConstantMap, positions: range) -> ConstantMap | None:
        """That of each map; None if it is not known."""
        raise NotImplementedError

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        known = facts.maps(node.inputs[0], 1) if facts.uneven(node.inputs[0], 1) is not None else None
        pooled = None if known is None else self.over_all(known, range(1, len(known.index)))
        if pooled is not None:
            yield 0, 1, pooled


@register("GlobalMaxPool")
class GlobalMaxPool(GlobalPool):
    """The maximum of a constant is the constant."""

    def over_all(self, known: ConstantMap, positions: range) -> ConstantMap | None:
        return extreme(known, positions)

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        x = operands[0]
        return None if x is None else [np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True))]


@register("GlobalAveragePool")
class GlobalAveragePool(GlobalPool, DependenceTransfer):
    """The mean of a constant is the constant.

    That of a constant map over sizes that are known at run time only is made of how often each of its rows occurs, so
    that the channel need not be there.
    """

    def over_all(self, known: ConstantMap, positions: range) -> ConstantMap | None:
        return averaged(known, positions)

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        yield from passed_on(node, facts)

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        x = operands[0]
        if x is None:
            return None
        mean = x.mean(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=np.float64)
        return [np.asarray(mean.astype(x.dtype))]

    @staticmethod
    def _of_open_sizes(node: gs.Node, facts: Facts) -> ConstantMap | None:
        """The channels that are averaged over sizes which are known at run time only, as maps."""
        uneven = facts.uneven(node.inputs[0], 1)
        return None if uneven is None or uneven.is_static(range(len(uneven.index))) else uneven

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        uneven = self._of_open_sizes(node, facts)
        if uneven is not None and (0, 1) in demands:
            demands[0, 1] = replace(demands[0, 1], need=demands[0, 1].need & ~uneven.mask)
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        uneven = self._of_open_sizes(rewriter.before, rewriter.facts)
        if uneven is None:
            return
        output, every = rewriter.before.outputs[0], np.ones(uneven.mask.size, bool)
        found, wanted = rewriter.required(node, 0, 1), rewriter.stored(output, 1)
        found, wanted = (every if slices is None else slices for slices in (found, wanted))
        missing = wanted & ~found
        if np.array_equal(found, wanted):
            return
        pooled = rewriter.emit(str(node.op), [node.inputs[0]], output)
        batch, _, *positions = dimensions(output)
        pooled.shape = sizes = [batch, int(found.sum()), *positions]
        if missing.any():
            chosen = ConstantMap(uneven.mask[missing], uneven.value[missing], uneven.index)
            average = rewriter.adapters.average(chosen, 1)
            pooled = rewriter.adapters.append(pooled, sizes, 1, average, int(missing.sum()))
        index = (np.where(found, np.cumsum(found), found.sum() + np.cumsum(missing)) - 1)[wanted]
        if np.array_equal(index, np.arange(found.sum() + missing.sum())):
            rewriter.become(node, "Identity", [pooled])
        else:
            rewriter.become(node, "Gather", [pooled, rewriter.constant("channels", index)], axis=1)


@register("InstanceNormalization")
class InstanceNormalization(Linked):
    """Statistics over the positions of each channel: a constant channel becomes its bias."""

    foldable = True
    reason = kept_reasons.EACH_BY_ITSELF
    flops_per_element = 7  # mean, centring, variance (2), normalising, scale and bias

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        size = facts.size(node.outputs[0], 1)
        if size is None or any(facts.size(node.inputs[i], a) != size for i, a in ((0, 1), (1, 0), (2, 0))):
            return []
        return [*same_axis(node, facts, [(0, 0), (1, 1)]), Link(1, 0, 0, 1), Link(2, 0, 0, 1)]

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        if link.input != 0 or link.input_axis != 1:
            return None
        bias = facts.constant_slices(node.inputs[2], 0)
        return ConstantSlices(known.mask & bias.mask, bias.value)
