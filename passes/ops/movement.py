"""Operators that move data and compute nothing: each output slice is an input slice, or a constant."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import MOST_PLACES, ConstantMap, Sliding, combined
from passes.abstract_values.element_order import Arrangement, reshaped, transposed
from passes.abstract_values.kernel_shape import Blocks
from passes.abstract_values.row_index import Rows, together
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Dependences, Link, Maps, Sets
from passes.abstract_values.symbolic_sizes import Extent, Window
from passes.graph.tensors import Array, Index, Mask, int_list, is_constant, operand, present, shape_of, size_of
from passes.ops.base import Linked, register, rules

if TYPE_CHECKING:
    from passes.graph.edits import Change
    from passes.rewriting.channel_facts import Facts
    from passes.rewriting.channel_order import Orders
    from passes.rewriting.lower_ops import Rewriter
    from passes.rewriting.weight_scaling import Fuser


class Movement(Linked):
    """No arithmetic, no FLOPs."""

    foldable = True
    moves = True
    reason = "moves the channels as they are"

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return 0, 0

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        return facts.lowest(node.inputs[0]) if self.only_picks else -math.inf

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        """An axis that stays as it is keeps what is known of its slices."""
        links = facts.links(node) if self.only_picks else []
        for link in links:
            found = facts.dependence.get((node.inputs[link.input].name, link.input_axis))
            others = [k for k in links if (k.output, k.output_axis) == (link.output, link.output_axis)]
            if found is not None and link.source is None and len(others) == 1:
                yield link.output, link.output_axis, found

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        """The axis of input `index` whose positions, all and in order, are those of this axis of the output.

        Asked where sizes are not static, as there are no links then; None where there is no such axis.
        """
        return None

    def extent(self, node: gs.Node, facts: Facts, output: int, axis: int) -> Extent | None:
        sources = [self.along(node, i, output, axis) for i, _ in present(list(node.inputs))]
        spans = {facts.span(node.inputs[i], a) for i, a in enumerate(sources) if a is not None}
        span = spans.pop() if len(spans) == 1 else None
        return span if isinstance(span, Extent) else None

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        """Channels and positions are picked from the maps of the inputs."""
        if not any(t.name in facts.constant_map for t in node.inputs):
            return
        links = facts.links(node)
        uneven = [k for k in links if k.input_axis in facts.constant_map.get(node.inputs[k.input].name, {})]
        for output, axis in sorted({(k.output, k.output_axis) for k in uneven}):
            parts = [k for k in links if (k.output, k.output_axis) == (output, axis)]
            total: ConstantMap | None = None
            for part in parts:
                picked = self._picked(node, facts, links, part)
                if picked is not None:
                    total = picked if total is None else combined(picked.mask, picked, total) or total
            if total is not None:
                yield output, axis, total

    def _picked(self, node: gs.Node, facts: Facts, links: list[Link], part: Link) -> ConstantMap | None:
        """The maps of one input, channels and positions as one link and its companions take them."""
        known, output = facts.maps(node.inputs[part.input], part.input_axis), node.outputs[part.output]
        if known is None or part.split:
            return None
        rank, rows = len(output.shape), list(known.index)
        targets: dict[int, list[int]] = {}  # output axis: the axes of the input that lie along it
        for place, given in enumerate(known.index):
            if given is not None:
                found = self._target(node, facts, links, part, place + (place >= part.input_axis), given)
                if found is None:
                    return None
                rows[place] = found[1]
                targets.setdefault(found[0], []).append(place)
        source = np.arange(len(known.mask)) if part.source is None else part.source
        mask = self.constant(node, facts, part, _not_even(known.mask[source] & (source >= 0)))
        if mask is None or part.output_axis in targets:
            return None
        picks = [source, *[np.zeros(1, np.int64)] * len(rows)]
        index: list[Rows | None] = []
        shapes = [_along(0, rank)] * (len(rows) + 1)
        for axis in (a for a in range(rank) if a != part.output_axis):
            joint = together([rows[place] for place in targets.get(axis, ())])
            if joint is None:
                return None
            index.append(joint[0])
            for number, place in enumerate(targets.get(axis, ())):
                picks[place + 1], shapes[place + 1] = joint[1][:, number], _along(len(index), rank)
        value = known.value[tuple(p.reshape(s) for p, s in zip(picks, shapes, strict=True))]
        return ConstantMap(mask.mask, value, tuple(index))

    def _target(
        self, node: gs.Node, facts: Facts, links: list[Link], part: Link, axis: int, rows: Rows
    ) -> tuple[int, Rows] | None:
        """The axis of the output that positions along this axis of the input go to, and the rows there."""
        output = node.outputs[part.output]
        if rows.course is not None:
            for a in range(len(output.shape)):
                if self.along(node, part.input, part.output, a) == axis and facts.span(output, a) == rows.span:
                    return a, rows
            return None
        for link in links:
            if (link.input, link.output, link.input_axis) == (part.input, part.output, axis) and not link.split:
                if link.source is None:
                    return link.output_axis, rows
                return None if (link.source < 0).any() else (link.output_axis, Rows(rows.places[link.source]))
        return None


def _along(place: int, rank: int) -> list[int]:
    """The shape of a vector along one of `rank` axes."""
    return [-1 if a == place else 1 for a in range(rank)]


def _not_even(mask: Mask) -> ConstantSlices:
    """Slices of which it is only said that they are known."""
    return ConstantSlices(mask, np.full(mask.shape, np.nan))


def same_axis(node: gs.Node, facts: Facts, pairs: list[tuple[int, int]]) -> list[Link]:
    """Links of input 0 to output 0 for `(input axis, output axis)` pairs of equal static size."""
    return [
        Link(0, a, 0, b)
        for a, b in pairs
        if facts.size(node.inputs[0], a) is not None and facts.size(node.inputs[0], a) == facts.size(node.outputs[0], b)
    ]


def filled(node: gs.Node, facts: Facts, value: Array) -> Constants:
    """Output 0 holds one value (shape []) throughout.

    Sizes that a graph output is only said to have are not relied on: nothing else tells them from the operand.
    """
    if not node.outputs[0].outputs:
        return
    for axis in range(len(shape_of(node.outputs[0]) or ())):
        size = facts.size(node.outputs[0], axis)
        if size:
            yield 0, axis, ConstantSlices(np.ones(size, bool), np.full(size, value))


def all_but(node: gs.Node, facts: Facts, axis: int) -> list[Link]:
    """Links of input 0 to output 0 for all axes but this one (may be negative)."""
    rank = len(shape_of(node.inputs[0]) or ())
    return same_axis(node, facts, [(a, a) for a in range(rank) if a != axis % rank])


@register("Transpose")
class Transpose(Movement):
    """Axes in another order."""

    arranges = True

    def contradiction(self, node: gs.Node) -> str:
        shape, perm = shape_of(node.inputs[0]), node.attrs.get("perm")
        if shape is None or perm is None or sorted(perm) == list(range(len(shape))):
            return ""
        return f"its perm {list(perm)} is no order of the {len(shape)} axes of its input"

    def arranged(self, node: gs.Node, places: Arrangement) -> Arrangement | None:
        return transposed(places, self._perm(node, sum(block.axes for block in places)))

    only_picks = True

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        shape = shape_of(node.inputs[0])
        if shape is None:
            return []
        return same_axis(node, facts, [(a, b) for b, a in enumerate(self._perm(node, len(shape)))])

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        rank = len(shape_of(node.inputs[0]) or ())
        return orders.written(node.inputs[0], self._perm(node, rank)[axis], order) if rank else None

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        rank = len(shape_of(node.inputs[0]) or ())
        return orders.read(node.outputs[0], self._perm(node, rank).index(axis), order) if rank else None

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return self._perm(node, len(node.inputs[0].shape))[axis] if node.inputs[0].shape is not None else None

    @staticmethod
    def _perm(node: gs.Node, rank: int) -> list[int]:
        return list(node.attrs.get("perm") or range(rank)[::-1])

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """What can be put into the node before it, along the axis as it is there."""
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return False
        axis = None if affine.axis is None else rank - self._perm(node, rank)[rank - affine.axis]
        return fuser.fold(Affine(node.inputs[0], affine.scale, affine.shift, axis))


@register("Squeeze", "Unsqueeze")
class Squeeze(Movement):
    """Axes of size 1 come or go; the others keep their order."""

    arranges = True

    def arranged(self, node: gs.Node, places: Arrangement) -> Arrangement | None:
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        return None if before is None or after is None else reshaped(places, before, after)

    only_picks = True

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, self._pairs(node))

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return next((a for a, b in self._pairs(node) if b == axis), None) if index == 0 else None

    @staticmethod
    def _pairs(node: gs.Node) -> list[tuple[int, int]]:
        """Axes that stay, before and after."""
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        axes = node.attrs.get("axes") if "axes" in node.attrs else int_list(operand(node, 1))
        if before is None or after is None:
            return []
        longer = max(len(before), len(after))
        if axes is None:  # Squeeze without axes drops every axis of size 1
            dropped = {i for i, dim in enumerate(before) if dim == 1}
        else:
            dropped = {a % longer for a in axes}
        kept = [a for a in range(longer) if a not in dropped]
        squeeze = len(before) == longer
        pairs = [(a, i) if squeeze else (i, a) for i, a in enumerate(kept)]
        return [p for p in pairs if p[0] < len(before) and p[1] < len(after)]


@register("Concat")
class Concat(Movement):
    """Operands side by side along `axis`; one that stores nothing there is left out."""

    def in_blocks(self, node: gs.Node) -> Blocks:
        return "whole"

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return axis if axis != node.attrs["axis"] % len(node.outputs[0].shape) else None

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        shape = shape_of(node.outputs[0])
        if not shape:
            return []
        axis = node.attrs["axis"] % len(shape)
        found = []
        for a in range(len(shape)):
            size = facts.size(node.outputs[0], a)
            if a != axis and size is not None and all(facts.size(t, a) == size for t in node.inputs):
                found += [Link(index, a, 0, a) for index in range(len(node.inputs))]
        sizes = [facts.size(t, axis) for t in node.inputs]
        total = facts.size(node.outputs[0], axis)
        if total is None or any(s is None for s in sizes):
            return found
        start = 0
        for index, size in enumerate(sizes):
            assert size is not None
            source = np.full(total, -1, np.int64)
            source[start : start + size] = np.arange(size)
            found.append(Link(index, axis, 0, axis, source))
            start += size
        return found

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        yield from super().maps(node, facts)
        rank = len(shape_of(node.outputs[0]) or ())
        axis = node.attrs["axis"] % max(rank, 1)
        for channels in range(rank):
            told = channels != axis and facts.size(node.outputs[0], channels) is not None
            if told and all(is_constant(t) or facts.constants(t, channels) is not None for t in node.inputs):
                beside = self._beside(node, facts, axis, channels)
                if beside is not None:
                    yield 0, channels, beside

    @staticmethod
    def _beside(node: gs.Node, facts: Facts, axis: int, channels: int) -> ConstantMap | None:
        """Slices that are known in all operands, which lie side by side along another axis of static size."""
        place, first = axis - (axis > channels), 0
        parts: list[ConstantMap] = []
        rows: list[Index] = []
        for tensor in node.inputs:
            known, size = facts.maps(tensor, channels), facts.size(tensor, axis)
            if known is None or size is None or any(r is not None for p, r in enumerate(known.index) if p != place):
                return None
            own = known.index[place]
            parts.append(known)
            rows.append(first + (np.zeros(size, np.int64) if own is None else own.places))
            first += known.value.shape[place + 1]
        if first > MOST_PLACES:
            return None
        mask = np.asarray(np.logical_and.reduce([p.mask for p in parts]))
        value = np.concatenate([p.value for p in parts], axis=place + 1)
        index = tuple(Rows(np.concatenate(rows)) if p == place else None for p in range(len(parts[0].index)))
        return ConstantMap(mask, value, index)

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        # along any other axis, one operand alone does not say what the whole slice holds
        return known if link.source is not None else None

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        if not demands:
            return {}
        axis = node.attrs["axis"] % len(node.outputs[0].shape)
        return {
            key: Demand(d.need, optional=key[1] == axis, reason=d.reason, echo=d.echo) for key, d in demands.items()
        }

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        axis = node.attrs["axis"] % max(len(rewriter.shape(rewriter.before.outputs[0])), 1)
        seen = [rewriter.required(node, i, axis) for i in range(len(node.inputs))]
        kept = [t for t, s in zip(list(node.inputs), seen, strict=True) if s is None or s.any()]
        rewriter.set_inputs(node, kept)


@register("Split")
class Split(Movement):
    """Parts along `axis`, each cut to what it stores; a part that stores nothing is left out."""

    only_picks = True

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return axis if axis != node.attrs.get("axis", 0) % len(node.outputs[output].shape) and index == 0 else None

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        shape = shape_of(node.inputs[0])
        if not shape:
            return []
        axis = node.attrs.get("axis", 0) % len(shape)
        found = []
        start = 0
        for index, tensor in enumerate(node.outputs):
            others = [a for a in range(len(shape)) if a != axis and facts.size(tensor, a) is not None]
            same = [a for a in others if facts.size(tensor, a) == facts.size(node.inputs[0], a)]
            found += [Link(0, a, index, a) for a in same]
            size = facts.size(tensor, axis)
            if size is None or facts.size(node.inputs[0], axis) is None:
                return []
            found.append(Link(0, axis, index, axis, np.arange(start, start + size)))
            start += size
        return found

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """What scales and shifts one part can be put into the node before, if it leaves the other parts alone."""
        rank = len(shape_of(node.inputs[0]) or ())
        axis = rank - affine.axis if affine.axis is not None else None
        sizes = [size_of(t, axis) or 0 for t in node.outputs] if axis is not None else []
        if not rank or axis is None or node.attrs.get("axis", 0) % rank != axis or 0 in sizes:
            return False
        output = next(i for i, t in enumerate(node.outputs) if t is affine.data)
        scale, shift = np.ones(sum(sizes)), np.zeros(sum(sizes))
        part = slice(sum(sizes[:output]), sum(sizes[: output + 1]))
        scale[part], shift[part] = affine.scale, affine.shift
        return fuser.fold(Affine(node.inputs[0], scale, shift, affine.axis))

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        """A permutation within one part is one of the whole."""
        sizes = [size_of(t, axis) for t in node.outputs]
        known = [size for size in sizes if size is not None]
        rank = len(shape_of(node.inputs[0]) or ())
        along = bool(rank) and node.attrs.get("axis", 0) % rank == axis
        if not along or len(known) < len(sizes) or sizes[output] != order.size:
            return None
        start = sum(known[:output])
        whole = np.arange(sum(known))
        whole[start : start + order.size] = start + order
        return orders.written(node.inputs[0], axis, whole)

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        """Along the other axes all parts store the same, as they come from one input."""
        result = super().storable_outputs(node, facts, asked)
        axis = node.attrs.get("axis", 0) % len(node.inputs[0].shape or (0,))
        for other in {a for _, a in result if a != axis}:
            keys = [(o, other) for o in range(len(node.outputs))]
            sets = [result.pop(key) for key in keys if key in result]
            if len(sets) == len(keys):
                union = np.asarray(np.logical_or.reduce(sets))
                result.update(dict.fromkeys(keys, union))
        return result

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        axis = node.attrs.get("axis", 0) % max(len(rewriter.shape(rewriter.before.inputs[0])), 1)
        counts = [rewriter.stored_count(t, axis) for t in node.outputs if rewriter.shape(t)]
        if (
            len(counts) < len(node.outputs)
            or any(c is None for c in counts)
            or all(rewriter.is_whole(t, axis) for t in node.outputs)
        ):
            return
        # a part that was empty from the start is still read
        kept = [
            (t, int(c))
            for t, c in zip(list(node.outputs), counts, strict=True)
            if c is not None and (c or rewriter.is_whole(t, axis))
        ]
        rewriter.set_outputs(node, [t for t, _ in kept])
        sizes = [c for _, c in kept]
        node.attrs.pop("num_outputs", None)
        if rewriter.opset < 13:
            node.attrs["split"] = sizes
        else:
            rewriter.set_inputs(node, [node.inputs[0], rewriter.constant("split", np.asarray(sizes, np.int64))])


@register("Slice")
class Slice(Movement):
    """With constant bounds; along an axis that is narrowed, exactly the slices that are wanted are read."""

    only_picks = True

    def misread(self, node: onnx.NodeProto, known: Set[str]) -> bool:
        # as of onnx 1.23 the elements of a vector are handed on whole where the start is not known
        return len(node.input) > 1 and node.input[1] not in known

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        ranges = self._ranges(node)
        return axis if ranges is not None and axis not in ranges and index == 0 else None

    def _ranges(self, node: gs.Node) -> dict[int, tuple[int, int, int]] | None:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return None
        if "starts" in node.attrs:
            starts, ends, axes, steps = node.attrs["starts"], node.attrs["ends"], node.attrs.get("axes"), None
        else:
            starts, ends = int_list(operand(node, 1)), int_list(operand(node, 2))
            axes, steps = int_list(operand(node, 3)), int_list(operand(node, 4))
            if (axes is None and operand(node, 3) is not None) or (steps is None and operand(node, 4) is not None):
                return None
        if starts is None or ends is None:
            return None
        axes = list(range(len(starts))) if axes is None else [a % rank for a in axes]
        steps = [1] * len(starts) if steps is None else steps
        return {a: (s, e, k) for a, s, e, k in zip(axes, starts, ends, steps, strict=True)}

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        ranges = self._ranges(node)
        if ranges is None:
            return []
        rank = len(shape_of(node.inputs[0]) or ())
        found = same_axis(node, facts, [(a, a) for a in range(rank) if a not in ranges])
        for axis, (start, end, step) in ranges.items():
            size = facts.size(node.inputs[0], axis)
            if size is None:
                continue
            if step < 0:
                continue
            source = np.arange(size)[max(start, -size) : end : step]
            if source.size and source.size == facts.size(node.outputs[0], axis):
                found.append(Link(0, axis, 0, axis, source))
        return found

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        rank = len(rewriter.shape(rewriter.before.inputs[0]))
        changed = {a for a in range(rank) if rewriter.required(node, 0, a) is not None}
        ranges = self._ranges(rewriter.before)
        if not changed or ranges is None:
            return
        # what is seen along these axes is already what the slice would leave, though perhaps in reverse
        back = (-1, -(1 << 40), -1)
        kept = {a: back if a in changed else r for a, r in ranges.items() if a not in changed or r[2] < 0}
        if not kept:
            rewriter.replace_by_input(node)
            return
        if "starts" in node.attrs:
            node.attrs.update(starts=[r[0] for r in kept.values()], ends=[r[1] for r in kept.values()], axes=list(kept))
            return
        bounds = np.asarray(list(kept.values()), np.int64).reshape(-1, 3).T
        operands = zip(
            ("starts", "ends", "axes", "steps"),
            (bounds[0], bounds[1], np.asarray(list(kept)), bounds[2]),
            strict=True,
        )
        rewriter.set_inputs(node, [node.inputs[0], *(rewriter.constant(n, v.astype(np.int64)) for n, v in operands)])


@register("Gather")
class Gather(Movement):
    """Constant indices choose slices of `axis`; computed ones (an embedding) leave the other axes as they are."""

    only_picks = True

    def from_shapes(self, node: gs.Node) -> Array | None:
        """Static sizes that are picked out of a shape of which others are not."""
        shape, index = node.inputs
        sizes = rules(shape.inputs[0]).sizes(shape.inputs[0]) if shape.inputs else None
        if sizes is None or not is_constant(index):
            return None
        wanted = np.asarray(index.values).astype(np.int64)
        if not ((wanted >= -len(sizes)) & (wanted < len(sizes))).all():
            return None
        picked = [sizes[i] for i in wanted.reshape(-1)]
        static = [d for d in picked if isinstance(d, int)]
        return np.asarray(static, np.int64).reshape(wanted.shape) if len(static) == len(picked) else None

    def picked(self, node: gs.Node) -> tuple[int, Index] | None:
        axis = self._axis(node)
        if axis is None or not is_constant(node.inputs[1]) or len(node.inputs[1].shape) != 1:
            return None
        index, size = np.asarray(node.inputs[1].values).astype(np.int64), size_of(node.inputs[0], axis)
        return (axis, index) if size is not None and ((index >= 0) & (index < size)).all() else None

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        """Every slice in its place."""
        picked = self.picked(node)
        if picked is None or not np.array_equal(picked[1], np.arange(size_of(node.inputs[0], picked[0]) or 0)):
            return None
        return node.inputs[0]

    def _axis(self, node: gs.Node) -> int | None:
        shape = shape_of(node.inputs[0])
        return int(node.attrs.get("axis", 0)) % len(shape) if shape else None

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        picked, indices = self._axis(node), shape_of(node.inputs[1])
        if picked is None or indices is None or index != 0:
            return None
        if axis < picked:
            return axis
        return axis - len(indices) + 1 if axis >= picked + len(indices) else None

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        axis = self._axis(node)
        indices = shape_of(node.inputs[1])
        if axis is None or indices is None:
            return []
        rank = len(shape_of(node.inputs[0]) or ())
        shift = len(indices) - 1
        found = same_axis(node, facts, [(a, a if a < axis else a + shift) for a in range(rank) if a != axis])
        source = self._source(node, facts, axis)
        if source is not None and source.ndim == 1:
            found.append(Link(0, axis, 0, axis, source))
        return found

    def _source(self, node: gs.Node, facts: Facts, axis: int) -> Index | None:
        size = facts.size(node.inputs[0], axis)
        if size is None or not is_constant(node.inputs[1]):
            return None
        indices = facts.value(node.inputs[1]).astype(np.int64)
        if ((indices < -size) | (indices >= size)).any():
            return None
        return np.where(indices < 0, indices + size, indices)

    def reads(self, node: gs.Node, facts: Facts):  # type: ignore[no-untyped-def]
        yield from super().reads(node, facts)
        picked = self._picks(node, facts)
        if picked is not None:
            yield 0, picked[0], picked[1]

    def _picks(self, node: gs.Node, facts: Facts) -> tuple[int, Mask] | None:
        """For one index that takes its axis away, or a table of several axes: the axis and the slices that are read."""
        axis = self._axis(node)
        source = None if axis is None else self._source(node, facts, axis)
        if axis is None or source is None or source.ndim == 1:
            return None
        need = np.zeros(facts.size(node.inputs[0], axis) or 0, bool)
        need[source.reshape(-1)] = True
        return axis, need

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        axis = self._axis(node)
        if axis is None:
            return demands
        picked = self._picks(node, facts)
        if picked is not None:
            demands[0, axis] = Demand(picked[1], flexible=True, reason="picks it")
        elif (0, axis) in demands:  # new indices find the slices wherever they are
            order = self.picked(node)
            echo, source = (None, None) if order is None else ((0, axis), order[1])
            need = demands[0, axis].need
            demands[0, axis] = Demand(need, flexible=True, reason="picks it", echo=echo, order=source)
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        rank = len(rewriter.shape(rewriter.before.inputs[0]))
        if not is_constant(node.inputs[1]) or not rank:
            return
        axis = int(node.attrs.get("axis", 0)) % rank
        seen = rewriter.required(node, 0, axis)
        indices = np.asarray(node.inputs[1].values).astype(np.int64)
        asked = rewriter.stored(rewriter.before.outputs[0], axis) if indices.ndim == 1 else None
        if seen is None and asked is None:
            return
        chosen = indices if asked is None else indices[asked]
        place = chosen if seen is None else (np.cumsum(seen) - 1)[chosen]
        rewriter.set_inputs(node, [node.inputs[0], rewriter.constant("indices", place)])


@register("Pad")
class Pad(Movement):
    """Amounts are constant, or computed and zero on some axes; padding an axis with a constant adds constant slices."""

    reason = "pads the channels as they are"

    def _pads(self, node: gs.Node) -> list[tuple[int, int]] | None:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return None
        pads = node.attrs.get("pads") if "pads" in node.attrs else int_list(operand(node, 1))
        if pads is None or (operand(node, 3) is not None and int_list(operand(node, 3)) is None):
            return None
        axes = [a % rank for a in int_list(operand(node, 3)) or range(rank)]
        amounts = {a: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
        return [amounts.get(a, (0, 0)) for a in range(rank)]

    def _amounts(self, node: gs.Node, facts: Facts) -> list[tuple[int, int] | None]:
        """Amounts before and after on each axis; where they are computed, zeros that are known, or else None."""
        pads = self._pads(node)
        if pads is not None:
            return [*pads]
        rank = len(shape_of(node.inputs[0]) or ())
        computed = operand(node, 1)
        known = None if computed is None or operand(node, 3) is not None else facts.known(computed, 0)
        if known is None or known.mask.size != 2 * rank:
            return []
        zero = known.mask & (known.value == 0)
        return [(0, 0) if zero[a] and zero[a + rank] else None for a in range(rank)]

    def _value(self, node: gs.Node, facts: Facts) -> float | None:
        """The constant that is padded with, None for other modes or if it is computed."""
        if node.attrs.get("mode", "constant") != "constant":
            return None
        tensor = operand(node, 2)
        if tensor is None:
            return float(node.attrs.get("value", 0.0))
        value = facts.uniform(tensor)
        return None if value is None else float(value)

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        amounts = self._amounts(node, facts)
        found = same_axis(node, facts, [(a, a) for a, p in enumerate(amounts) if p == (0, 0)])
        for axis, (before, after) in enumerate(self._pads(node) or ()):
            size = facts.size(node.inputs[0], axis)
            if size is None or (before, after) == (0, 0) or min(before, after) < 0 or self._value(node, facts) is None:
                continue
            source = np.concatenate([np.full(before, -1), np.arange(size), np.full(after, -1)]).astype(np.int64)
            found.append(Link(0, axis, 0, axis, source))
        return found

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        result = super().storable_outputs(node, facts, asked)
        for link in facts.links(node):
            key = 0, link.output_axis
            if link.source is not None and key in result and not (result[key] & (link.source >= 0)).any():
                # there is always something to pad
                result[key] = result[key] | (np.arange(link.source.size) == int((link.source >= 0).argmax()))
        return result

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        amounts = self._amounts(node, facts)
        elsewhere = any(p != (0, 0) for a, p in enumerate(amounts) if a != link.input_axis)
        constant_mode = node.attrs.get("mode", "constant") == "constant"
        if elsewhere and constant_mode:  # a border of another value makes the slice uneven
            value = self._value(node, facts)
            same = np.zeros(known.mask.shape, bool) if value is None else known.value == value
            known = ConstantSlices(known.mask & same, known.value)
        return known

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        found = {(output, axis): known for output, axis, known in super().constants(node, facts)}
        value = self._value(node, facts)
        for link in facts.links(node):
            if link.source is None or value is None:
                continue
            dtype = node.inputs[0].dtype
            border = ConstantSlices(
                link.source < 0, np.full(link.source.shape, value, dtype if dtype is not None else np.float32)
            )
            before = found.get((0, link.output_axis))
            if before is not None:
                border = ConstantSlices(border.mask | before.mask, np.where(border.mask, border.value, before.value))
            found[0, link.output_axis] = border
        for (output, axis), known in found.items():
            yield output, axis, known

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        pads = self._pads(node)
        return axis if pads is not None and pads[axis] == (0, 0) and index == 0 else None

    def extent(self, node: gs.Node, facts: Facts, output: int, axis: int) -> Extent | None:
        pads, span = self._pads(node), facts.span(node.inputs[0], axis)
        return span.scaled(1, sum(pads[axis])) if pads is not None and isinstance(span, Extent) else None

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        pads = self._pads(node)
        if pads is None or pads[0] != (0, 0) or min(min(p) for p in pads) < 0:
            return
        for axis in range(1, len(pads)):
            known = facts.maps(node.inputs[0], axis) if pads[axis] == (0, 0) else None
            found = None if known is None else self._padded(node, facts, axis, pads, known)
            if found is not None:
                yield 0, axis, found

    def _padded(
        self, node: gs.Node, facts: Facts, axis: int, pads: list[tuple[int, int]], known: ConstantMap
    ) -> ConstantMap | None:
        """Known maps of the slices along an axis, with what is padded on the others."""
        mode, value = node.attrs.get("mode", "constant"), self._value(node, facts)
        others = [a for a in range(len(pads)) if a != axis]
        if mode in ("reflect", "edge") and known.static:
            index = [
                None if rows is None else Rows(np.pad(rows.places, pads[a], mode=mode))
                for rows, a in zip(known.index, others, strict=True)
            ]
            return ConstantMap(known.mask, known.value, tuple(index))
        if mode != "constant" or value is None:
            return None
        windows = [Window(1, before=pads[a][0], after=pads[a][1]) for a in others[1:]]
        found = Sliding(windows, [facts.span(node.inputs[0], a) for a in others[1:]]).over(known, value)
        return (
            None if found is None else ConstantMap(known.mask, found[1].reshape(found[1].shape[: len(pads)]), found[0])
        )

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        pads = self._pads(rewriter.before)
        if pads is None:
            return
        amounts = []
        for axis, (before, after) in enumerate(pads):
            stored = rewriter.stored(rewriter.before.outputs[0], axis)
            if stored is not None and (before, after) != (0, 0):
                before, after = int(stored[:before].sum()), int(stored[len(stored) - after :].sum())
            amounts.append((before, after))
        if amounts == pads:
            return
        flat = [p[0] for p in amounts] + [p[1] for p in amounts]
        if "pads" in node.attrs:
            node.attrs["pads"] = flat
            return
        inputs = list(node.inputs)[:3]
        inputs[1] = rewriter.constant("pads", np.asarray(flat, np.int64))
        rewriter.set_inputs(node, inputs)
