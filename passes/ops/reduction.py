"""Reductions over axes, and operators that need the whole of an axis: the other axes pass through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from passes.ops.base import Known, Link, Linked, register
from passes.ops.movement import same_axis
from passes.patterns import Pattern, averaged, uniform
from passes.tensors import int_list, operand, shape_of, volume

if TYPE_CHECKING:
    from passes.facts import Facts


def reduced_axes(node: gs.Node) -> set[int] | None:
    """Axes that a Reduce operator takes away, None if they are computed at run time."""
    rank = len(shape_of(node.inputs[0]) or ())
    if not rank:
        return None
    axes = node.attrs.get("axes") if "axes" in node.attrs else int_list(operand(node, 1))
    if axes is None and operand(node, 1) is not None:
        return None
    if not axes:
        return set() if node.attrs.get("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes}


@register("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
class Reduce(Linked):
    """Each slice of an axis that stays is reduced by itself."""

    foldable = True
    reason = "reduces each channel by itself"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        axes = reduced_axes(node)
        rank = len(shape_of(node.inputs[0]) or ())
        if axes is None:
            return []
        kept = [a for a in range(rank) if a not in axes]
        if node.attrs.get("keepdims", 1):
            return same_axis(node, facts, [(a, a) for a in kept])
        return same_axis(node, facts, [(a, i) for i, a in enumerate(kept)])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        # of a sum, how many are added is not known here; zeros stay zero, except in logarithms
        if node.op in ("ReduceLogSum", "ReduceLogSumExp"):
            return None
        return Known(known.mask & (known.value == 0), known.value)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """One FLOP per element that is reduced."""
        return volume(node.inputs[0]), 0


@register("ReduceMean", "ReduceMax", "ReduceMin")
class ReduceAverage(Reduce):
    """The mean or an extremum of a constant is the constant."""

    def maps(self, node: gs.Node, facts: Facts) -> Iterator[tuple[int, Pattern]]:
        known = facts.maps(node.inputs[0]) if node.inputs[0].name in facts.pattern else None
        spatial = set(range(2, len(shape_of(node.inputs[0]) or ())))
        if known is not None and node.op == "ReduceMean" and reduced_axes(node) == spatial:
            mean = averaged(known)
            sizes = [1] * (len(shape_of(node.outputs[0]) or ()) - 2)
            yield 0, uniform(mean.mask, mean.value.reshape(len(mean.mask)), sizes)

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return known


@register("Softmax", "LogSoftmax", "Hardmax")
class Softmax(Linked):
    """Whole along its axis (before opset 13, along all axes from it on)."""

    foldable = True
    reason = "normalises along another axis"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return []
        if facts.opset >= 13:
            axis = int(node.attrs.get("axis", -1)) % rank
            return same_axis(node, facts, [(a, a) for a in range(rank) if a != axis])
        return same_axis(node, facts, [(a, a) for a in range(int(node.attrs.get("axis", 1)) % rank)])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return None

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Subtract the maximum, exponentiate, sum, divide: four per element."""
        return 4 * volume(node.outputs[0]), 0


@register("ArgMax", "ArgMin")
class AlongAxis(Linked):
    """Whole along the axis it works on; nothing is known of the result."""

    reason = "works along another axis"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return []
        axis = int(node.attrs.get("axis", 0)) % rank
        kept = [a for a in range(rank) if a != axis]
        keepdims = node.attrs.get("keepdims", 1)
        return same_axis(node, facts, [(a, a if keepdims else i) for i, a in enumerate(kept)])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return None
