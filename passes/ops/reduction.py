"""Reductions over axes, and operators that need the whole of an axis: the other axes pass through."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import ConstantMap, averaged, extreme
from passes.abstract_values.polynomial import Polynomial, maximum, minimum
from passes.abstract_values.shape_rules import ElementRule, Elements, ShapeVectors, each
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Dependences, Link, Maps, Sets
from passes.graph.evaluate import evaluate
from passes.graph.tensors import (
    Array,
    Mask,
    along,
    is_constant,
    is_float,
    numpy_dtype,
    operand,
    product,
    shape_of,
    volume,
)
from passes.ops.base import Linked, Preserved, axis_attribute, integers, register
from passes.ops.movement import filled, same_axis, whole_line
from passes.ops.traits import DependenceTransfer, passed_on
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter

_COMPUTED = 1 << 20  # elements: no larger constant is made only to be reduced


def reduced_axes(node: gs.Node) -> set[int] | None:
    """Axes that a Reduce operator takes away, None if they are computed at run time."""
    rank = len(shape_of(node.inputs[0]) or ())
    if not rank:
        return None
    axes = integers(node, "axes", 1)
    if axes is None and operand(node, 1) is not None:
        return None
    if not axes:
        return set() if node.attrs.get("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes}


def _kept(node: gs.Node, facts: Facts, axes: set[int]) -> list[Link]:
    """Links of the axes that are not reduced."""
    others = (a for a in range(len(shape_of(node.inputs[0]) or ())) if a not in axes)
    keepdims = node.attrs.get("keepdims", 1)
    return same_axis(node, facts, [(a, a if keepdims else i) for i, a in enumerate(others)])


#: what the operators make of two sizes
_OF_SIZES: dict[str, Callable[[Polynomial, Polynomial], Polynomial | None]] = {
    "ReduceMax": maximum,
    "ReduceMin": minimum,
    "ReduceProd": operator.mul,
    "ReduceSum": operator.add,
}


class Reduce(ElementRule, Linked):
    """Each slice of an axis that stays is reduced by itself; along the others constants need not be stored."""

    foldable = True
    #: whether the result is the same for any number of equal elements
    averages = False
    preserves: Preserved = "zeros"  # of a sum, how many are added is not known here
    reason = kept_reasons.EACH_BY_ITSELF

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        axes = reduced_axes(node)
        return [] if axes is None else _kept(node, facts, axes)

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        sizes, of_sizes = vectors.of(node.inputs[0]), _OF_SIZES.get(node.op)
        if of_sizes is None or sizes is None or sizes.ndim != 1 or not sizes.size or reduced_axes(node) != {0}:
            return None
        parts: list[Elements | None] = [sizes[place : place + 1] for place in range(sizes.size)]
        found = functools.reduce(functools.partial(each, of_sizes), parts)
        return found if found is None or node.attrs.get("keepdims", 1) else found.reshape(())

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        value = self._of_constants(node, facts)
        if value is None:
            yield from super().constants(node, facts)
        else:
            yield from filled(node, facts, value)

    def _of_constants(self, node: gs.Node, facts: Facts) -> Array | None:
        """The result, if all that is reduced is known along one of the axes; None otherwise."""
        x, axes = node.inputs[0], reduced_axes(node) or set()
        sizes = [facts.size(x, a) if a in axes else 1 for a in range(len(shape_of(x) or ()))]
        found = next((line for a in axes if sizes[a] and (line := whole_line(facts, x, a)) is not None), None)
        static = [1 if s is None else s for s in sizes]
        if found is None or (None in sizes and not self.averages) or math.prod(static) > _COMPUTED:
            return None
        operands = [np.broadcast_to(found, static), *(facts.value(t) for t in node.inputs[1:] if is_constant(t))]
        results = evaluate(node, facts.opset, operands)
        return None if results is None or results[0].size != 1 else results[0].reshape(())

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        x, axes = node.inputs[0], reduced_axes(node)
        for link in facts.links(node) if axes and is_float(x) and not is_constant(x) else ():
            known = facts.maps(x, link.input_axis)
            positions = {a - (a > link.input_axis) for a in axes or ()}
            reduced = None if known is None else self.reduced(node, facts, known, positions)
            if reduced is None:
                continue
            if not node.attrs.get("keepdims", 1):
                index = tuple(rows for position, rows in enumerate(reduced.index) if position not in positions)
                value = reduced.value.squeeze(tuple(position + 1 for position in positions))
                reduced = ConstantMap(reduced.mask, value, index)
            yield 0, link.output_axis, reduced

    def reduced(self, node: gs.Node, facts: Facts, known: ConstantMap, positions: set[int]) -> ConstantMap | None:
        """The maps reduced over these of their other axes; None if they are not known."""
        return None

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        return 0.0 if facts.lowest(node.inputs[0]) >= 0 else -math.inf

    def dispensable(self, node: gs.Node, facts: Facts, axis: int) -> Mask | None:
        """Slices along an axis that is reduced which need not be there; None for none."""
        return None

    def narrowed(self, node: gs.Node, facts: Facts) -> tuple[int, Mask] | None:
        """The axis that is reduced over fewer slices, and those that must be there."""
        x = node.inputs[0]
        for axis in sorted(reduced_axes(node) or ()) if is_float(x) and not is_constant(x) else ():
            size = facts.size(x, axis)
            dispensable = None if size is None else self.dispensable(node, facts, axis)
            if dispensable is not None and dispensable.any():
                return axis, ~dispensable
        return None

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        narrowed = self.narrowed(node, facts)
        if narrowed is not None:
            axis, need = narrowed
            flops = volume(node.inputs[0]) / need.size
            demands[0, axis] = Demand(need, flexible=True, flops=flops, reason=kept_reasons.READ)
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        narrowed = self.narrowed(rewriter.before, rewriter.facts)
        kept = None if narrowed is None else rewriter.required(node, 0, narrowed[0])
        if narrowed is not None and kept is not None:
            self.lower_narrowed(node, rewriter, narrowed[0], kept)

    def lower_narrowed(self, node: gs.Node, rewriter: Rewriter, axis: int, kept: Mask) -> None:
        """Make up for the slices that are not there."""

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """One FLOP per element that is reduced."""
        return volume(node.inputs[0]), 0


@register("ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
class ReduceWhole(Reduce):
    """Nothing is known beforehand, but that zeros stay zero in a product."""

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        return -math.inf

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return super().constant(node, facts, link, known) if node.op == "ReduceProd" else None


@register("ReduceL1", "ReduceL2", "ReduceSumSquare")
class ReduceNorm(Reduce):
    """Zeros add nothing."""

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        return 0.0

    def dispensable(self, node: gs.Node, facts: Facts, axis: int) -> Mask | None:
        return facts.zero(node.inputs[0], axis)


@register("ReduceSum")
class ReduceSum(Reduce, DependenceTransfer):
    """Constant slices add a constant; linearly dependent ones count as multiples."""

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        yield from passed_on(node, facts, means=self.averages)

    def dispensable(self, node: gs.Node, facts: Facts, axis: int) -> Mask | None:
        x, counted = node.inputs[0], self._others(node, facts, axis) is not None
        known, dependence = facts.constant_slices(x, axis), facts.dependence.get((x.name, axis))
        found = known.mask if counted else known.only(0).mask
        return found | dependence.mask if dependence is not None and (counted or not dependence.shift.any()) else found

    def reduced(self, node: gs.Node, facts: Facts, known: ConstantMap, positions: set[int]) -> ConstantMap | None:
        mean = averaged(known, positions)
        sizes = [facts.size(node.inputs[0], a) for a in reduced_axes(node) or ()]
        if mean is None or None in sizes:
            return None
        value = (mean.value.astype(np.float64) * product(sizes)).astype(known.value.dtype)
        return ConstantMap(mean.mask, value, mean.index)

    def _others(self, node: gs.Node, facts: Facts, axis: int) -> int | None:
        """How many elements of one slice are added to each other, None if that is not static."""
        sizes = [facts.size(node.inputs[0], a) for a in reduced_axes(node) or () if a != axis]
        return None if None in sizes else product(sizes)

    def lower_narrowed(self, node: gs.Node, rewriter: Rewriter, axis: int, kept: Mask) -> None:
        before, facts = rewriter.before, rewriter.facts
        x = before.inputs[0]
        known, dependence = facts.constant_slices(x, axis), facts.dependence.get((x.name, axis))
        weights = np.ones(kept.size)
        total, scale = float(known.value[known.mask & ~kept].astype(np.float64).sum()), 1.0
        if dependence is not None:
            removed = dependence.mask & ~kept
            np.add.at(weights, dependence.reps, dependence.coef[removed].sum(axis=0))
            total += float(dependence.shift[removed].sum())
        total *= self._others(before, facts, axis) or 1
        if self.averages:
            total, scale = total / kept.size, float(kept.sum()) / kept.size
        # scale · (reduction of weights · slices) + total
        data, dtype = node.inputs[0], numpy_dtype(x)
        if (weights[kept] != 1).any():
            shape = along(axis, len(rewriter.shape(x)))
            factors = rewriter.constant("times", (weights[kept] * scale).astype(dtype).reshape(shape))
            data, scale = rewriter.emit("Mul", [data, factors], data), 1.0
        rewriter.set_input(node, 0, data)
        if scale == 1 and total == 0:
            return
        reduced = rewriter.emit(node.op, list(node.inputs), data, **node.attrs)
        if scale != 1 and total != 0:
            reduced = rewriter.emit("Mul", [reduced, rewriter.constant("share", np.asarray(scale, dtype))], data)
        last = ("Add", total) if total != 0 else ("Mul", scale)
        rewriter.become(node, last[0], [reduced, rewriter.constant("rest", np.asarray(last[1], dtype))])


@register("ReduceMean")
class ReduceMean(ReduceSum):
    """The mean of a constant is the constant."""

    averages = True
    preserves = "constants"

    def reduced(self, node: gs.Node, facts: Facts, known: ConstantMap, positions: set[int]) -> ConstantMap | None:
        return averaged(known, positions)

    def _others(self, node: gs.Node, facts: Facts, axis: int) -> int | None:
        return 1  # the other axes are averaged over


@register("ReduceMax", "ReduceMin")
class ReduceExtremum(Reduce):
    """An extremum of a constant is the constant; many known slices count as their own extremum."""

    averages = True
    preserves = "constants"

    def reduced(self, node: gs.Node, facts: Facts, known: ConstantMap, positions: set[int]) -> ConstantMap | None:
        return extreme(known, positions, np.max if node.op == "ReduceMax" else np.min)

    def dispensable(self, node: gs.Node, facts: Facts, axis: int) -> Mask | None:
        known = facts.constant_slices(node.inputs[0], axis).mask
        return None if known.sum() < 4 or known.all() else known  # not worth another operator for a slice or two

    def lower_narrowed(self, node: gs.Node, rewriter: Rewriter, axis: int, kept: Mask) -> None:
        known = rewriter.facts.constant_slices(rewriter.before.inputs[0], axis)
        removed = known.value[known.mask & ~kept]
        if removed.size == 0:
            return
        extremum = removed.max() if node.op == "ReduceMax" else removed.min()
        reduced = rewriter.emit(node.op, list(node.inputs), node.inputs[0], **node.attrs)
        limit = rewriter.constant("limit", np.asarray(extremum, numpy_dtype(rewriter.before.inputs[0])))
        rewriter.become(node, node.op.removeprefix("Reduce"), [reduced, limit])


@register("ArgMax", "ArgMin")
class ArgExtremum(Linked):
    """Needs all channels along its axis; nothing is known of the result."""

    preserves = "nothing"
    reason = kept_reasons.ANOTHER_AXIS

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return _kept(node, facts, {axis_attribute(node)})
