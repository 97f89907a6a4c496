"""Parts of a tensor: Slice, and Gather of known indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.polynomial import Polynomial, maximum
from passes.abstract_values.shape_rules import Shape as Sizes
from passes.abstract_values.shape_rules import ShapeVectors, SizeRule
from passes.abstract_values.slices import Demands, Link, Sets
from passes.graph.tensors import (
    MOST_ELEMENTS,
    Dim,
    Index,
    int_list,
    is_constant,
    operand,
    present,
    product,
    shape_of,
    size_of,
    values_of,
)
from passes.ops.base import axis_attribute, register
from passes.ops.gather_scatter import Picking
from passes.ops.movement import Movement, same_axis
from passes.ops.shape import is_static
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter

Bound = int | Polynomial | None
AnyBound = TypeVar("AnyBound", int, Bound)
_END = 2**31 - 1  # where exporters let a slice end that goes on to the last


@register("Slice")
class Slice(SizeRule, Movement):
    """With constant bounds; along an axis that is narrowed, exactly the slices that are wanted are read."""

    only_picks = True

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Sizes | None:
        shape = shape_of(node.inputs[0])
        if shape is None:
            return None
        chosen: Mapping[int, tuple[Bound, Bound, Bound]] | None
        if "starts" in node.attrs:
            chosen = self._ranges(node)
        else:
            bounds = {index: _bounds(tensor, vectors) for index, tensor in present(node.inputs) if index > 0}
            axes = [axis for axis in bounds.get(3) or () if isinstance(axis, int)]
            if None in bounds.values() or len(axes) < len(bounds.get(3) or ()):
                return [None] * len(shape)
            chosen = ranges(len(shape), bounds[1], bounds[2], axes or None, bounds.get(4))
        if chosen is None:
            return None
        return [sliced(shape, a, *chosen[a]) if a in chosen else d for a, d in enumerate(shape)]

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return axis if index == 0 and axis in self._whole(node) else None

    def _whole(self, node: gs.Node) -> set[int]:
        """The axes that no bounds are given for."""
        rank, axes = len(shape_of(node.inputs[0]) or ()), operand(node, 3)
        if "starts" in node.attrs:
            named = node.attrs.get("axes") or range(len(node.attrs["starts"]))
        else:
            named = range(size_of(node.inputs[1], 0) or rank) if axes is None else int_list(axes)
        return set() if named is None or not rank else {*range(rank)} - {a % rank for a in named}

    def _ranges(self, node: gs.Node) -> dict[int, tuple[int, int, int]] | None:
        rank = len(shape_of(node.inputs[0]) or ())
        if "starts" in node.attrs:
            return ranges(rank, node.attrs["starts"], node.attrs["ends"], node.attrs.get("axes"))
        if any(int_list(tensor) is None for _, tensor in present(node.inputs[1:])):
            return None
        return ranges(rank, *(int_list(operand(node, index)) for index in range(1, 5)))

    def contradiction(self, node: gs.Node) -> str:
        return "its step is 0" if 0 in (int_list(operand(node, 4)) or ()) else ""

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        """All axes are whole."""
        shape, ranges = shape_of(node.inputs[0]), self._ranges(node)
        if shape is None or ranges is None:
            return None
        return node.inputs[0] if all(keeps_axis(shape, axis, *bounds) for axis, bounds in ranges.items()) else None

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        found = same_axis(node, facts, [(a, a) for a in sorted(self._whole(node))])
        for axis, (start, end, step) in (self._ranges(node) or {}).items():
            size = facts.size(node.inputs[0], axis)
            if size is None:
                continue
            source = np.asarray(taken(size, start, end, step), np.int64)
            if source.size and source.size == facts.size(node.outputs[0], axis):
                found.append(Link(0, axis, 0, axis, source))
        return found

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        for axis in self._ranges(node) or ():
            if (0, axis) in demands:
                out = stored.get((0, axis))
                demands[0, axis] = replace(demands[0, axis], picked=True, or_all=out is None or bool(out.all()))
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        rank = len(rewriter.shape(rewriter.before.inputs[0]))
        changed = {a for a in range(rank) if rewriter.required(node, 0, a) is not None}
        ranges = self._ranges(rewriter.before)
        if not changed or ranges is None:
            return
        # what is required along these axes is already what the slice would leave, though perhaps in reverse
        back = (-1, -(1 << 40), -1)
        kept = {a: back if a in changed else r for a, r in ranges.items() if a not in changed or r[2] < 0}
        if not kept:
            rewriter.become(node, "Identity", node.inputs[:1])
            return
        starts, ends, steps = (list(each) for each in zip(*kept.values(), strict=True))
        bounds = {"starts": starts, "ends": ends, "axes": list(kept)} | ({"steps": steps} if {*steps} != {1} else {})
        node.inputs, node.attrs = rewriter.editor.form("Slice", node.inputs[:1], bounds)


def _bounds(tensor: gs.Tensor, vectors: ShapeVectors) -> list[Bound] | None:
    """The elements of one operand of a Slice; None where not even their number is known."""
    elements = vectors.listed(tensor)
    return None if elements is None else [p if p is None or p.number is None else p.number for p in elements]


def ranges(
    rank: int,
    starts: Sequence[AnyBound] | None,
    ends: Sequence[AnyBound] | None,
    axes: Sequence[int] | None = None,
    steps: Sequence[AnyBound] | None = None,
) -> dict[int, tuple[AnyBound, AnyBound, AnyBound]] | None:
    """By axis, from the front, the start, end and step of a Slice with these operands; None where they say nothing."""
    if starts is None or ends is None or not rank:
        return None
    axes = range(len(starts)) if axes is None else [axis % rank for axis in axes]
    steps = [1] * len(starts) if steps is None else steps
    if not len(set(axes)) == len(axes) == len(starts) == len(ends) == len(steps):
        return None  # of an axis that is given twice nobody says which counts
    return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


def taken(size: int, start: int, end: int, step: int) -> range:
    """The indices that a Slice takes of an axis: as in Python, but one that begins before the first takes that one."""
    return range(*slice(max(start, -size), end, step).indices(size))


def keeps_axis(shape: Sequence[Dim], axis: int, start: int, end: int, step: int) -> bool:
    """Whether this range keeps an axis of a tensor of this shape whole.

    An axis of open size ends before what no tensor has as many elements of.
    """
    if (start, step) != (0, 1):
        return False
    size, others = shape[axis], [size for a, size in enumerate(shape) if a != axis]
    if is_static([size]):
        return end >= int(size)  # type: ignore[arg-type]
    return end >= _END or (is_static(others) and end * product(others) >= MOST_ELEMENTS)


def sliced(shape: Sizes, axis: int, start: Bound, end: Bound, step: Bound) -> Dim:
    """The size of an axis after this range, whose bounds may be unknown, is taken; None where it is not known.

    Of an axis of open size n all that is not max(n - k, 0) for a number k is made of those, so that the parts of a
    whole add up to it.
    """
    size = shape[axis]
    if size is None or not isinstance(start, int) or not isinstance(step, int):
        return None
    if not isinstance(end, int):
        inside = end is not None and end.is_natural and (Polynomial.of(size) - end).is_natural
        return end.dim if end is not None and inside and (start, step) == (0, 1) else None
    if isinstance(size, int):
        return len(taken(size, start, end, step))
    if keeps_axis(shape, axis, start, end, step):
        return size
    whole = Polynomial.of(size)

    def beyond(first: int) -> Polynomial:
        return maximum(whole - Polynomial.of(first), Polynomial()) if first else whole

    if step < 0:
        length = whole if start in (-1, _END) and end <= -_END else None
    elif start >= 0 > end:
        length = beyond(start - end)
    elif start < 0 <= end:
        length = whole - beyond(-start) if end >= _END else None
    elif start >= end:
        length = Polynomial()
    elif start >= 0:
        length = beyond(start) - (Polynomial() if end >= _END else beyond(end))
    else:
        length = beyond(-end) - beyond(-start)
    return None if length is None else ((length + Polynomial.of(abs(step) - 1)) // Polynomial.of(abs(step))).dim


@register("Gather")
class Gather(Picking):
    """Constant indices choose slices of `axis`; computed ones (an embedding) leave the other axes as they are."""

    def picked(self, node: gs.Node) -> tuple[int, Index] | None:
        """The axis along which the node picks slices of input 0 and does nothing else, and which: int64 [picked]."""
        axis = axis_attribute(node)
        if not is_constant(node.inputs[1]) or len(node.inputs[1].shape) != 1:
            return None
        index, size = values_of(node.inputs[1]).astype(np.int64), size_of(node.inputs[0], axis)
        return (axis, index) if size is not None and ((index >= 0) & (index < size)).all() else None

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        """Every slice in its place."""
        picked = self.picked(node)
        if picked is None or not np.array_equal(picked[1], np.arange(size_of(node.inputs[0], picked[0]) or 0)):
            return None
        return node.inputs[0]

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        picked, indices = axis_attribute(node), shape_of(node.inputs[1])
        if not shape_of(node.inputs[0]) or indices is None or index != 0:
            return None
        if axis < picked:
            return axis
        return axis - len(indices) + 1 if axis >= picked + len(indices) else None

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        axis, indices = axis_attribute(node), shape_of(node.inputs[1])
        if indices is None:
            return []
        rank, shift = len(shape_of(node.inputs[0]) or ()), len(indices) - 1
        found = same_axis(node, facts, [(a, a if a < axis else a + shift) for a in range(rank) if a != axis])
        return found + [Link(0, axis, 0, axis, index) for _, index in self.chosen(node) if index.ndim == 1]

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands, picked = super().required_inputs(node, facts, stored), self.picked(node)
        if picked is not None and (0, picked[0]) in demands:
            key = 0, picked[0]
            demands[key] = replace(demands[key], echo=key, order=picked[1])
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        axis = axis_attribute(rewriter.before)
        if not is_constant(node.inputs[1]):
            return
        required, indices = rewriter.required(node, 0, axis), values_of(node.inputs[1]).astype(np.int64)
        asked = rewriter.stored(rewriter.before.outputs[0], axis) if indices.ndim == 1 else None
        if required is None and asked is None:
            return
        chosen = indices if asked is None else indices[asked]
        positions = chosen if required is None else (np.cumsum(required) - 1)[chosen]
        rewriter.set_input(node, 1, rewriter.constant("indices", positions))
