"""Operators that change the shape, or compute with it.

Tensors that hold shapes keep speaking of the original sizes, whatever is stored; the operators that use them as
operands are given the stored sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.element_order import Arrangement, reshaped, transposed
from passes.abstract_values.polynomial import Polynomial, known, product, quotient
from passes.abstract_values.reshape_groups import common_factors, matched_groups
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.shape_rules import (
    AgreementRule,
    ElementRule,
    Elements,
    ShapeVectors,
    SizeRule,
    broadcast,
    polynomials,
)
from passes.abstract_values.shape_rules import Shape as Sizes
from passes.abstract_values.slices import Constants, Demand, Demands, Link, Reads, Sets
from passes.graph.editor import Change
from passes.graph.tensors import (
    MOST_SLICES,
    Array,
    Dim,
    Index,
    int_list,
    is_constant,
    operand,
    shape_of,
    size_of,
    static_shape,
)
from passes.ops.base import Op, integers, register
from passes.ops.movement import Movement, Repeating, filled, same_axis
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering
from passes.rewriting.lower_ops import Rewriter
from passes.rewriting.weight_scaling import AffineFolding, Fuser


class Rearrangement(Movement, AffineFolding, Reordering):
    """Puts the elements of input 0 into another shape or order, and does nothing else.

    Scales, shifts and orders along an axis that it keeps go to the node before or behind it.
    """

    only_picks = True

    def arranged(self, node: gs.Node, places: Arrangement) -> Arrangement | None:
        """Where the elements of output 0 come from, given that for input 0; None if it cannot be said."""
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        return None if before is None or after is None else reshaped(places, before, after)

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        along = self.along(node, 0, 0, axis)
        return None if along is None else orders.written(node.inputs[0], along, order)

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        output = node.outputs[0]
        axes = (a for a in range(len(shape_of(output) or ())) if self.along(node, 0, 0, a) == axis)
        after = next(axes, None) if index == 0 else None
        return None if after is None else orders.read(output, after, order)

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        data, after = node.inputs[0], shape_of(node.outputs[0]) or ()
        if affine.axis is None:
            return fuser.fold(replace(affine, data=data))
        along = self.along(node, 0, 0, len(after) - affine.axis)
        return along is not None and fuser.fold(replace(affine, data=data, axis=len(shape_of(data) or ()) - along))


class Regrouping(SizeRule, Repeating, Rearrangement):
    """Puts the elements into another shape: groups of axes with equal products are kept, merged or split."""

    reason = kept_reasons.REGROUPED

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Sizes]]:
        """Each size as the elements after it divided by the others before, so the only one that nothing else tells."""
        before, after = known(shape_of(node.inputs[0])), known(shape_of(node.outputs[0]))
        if before is not None and after is not None:
            others = (product(before[:axis] + before[axis + 1 :]) for axis in range(len(before)))
            sizes = [quotient(product(after), rest) for rest in others]
            yield 0, [None if size is None else size.dim for size in sizes]

    def contradiction(self, node: gs.Node) -> str:
        before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
        if before is None or after is None or np.prod(before) == np.prod(after):
            return ""
        return f"{before} cannot be given the shape {after}"

    def leaves_shape(self, node: gs.Node) -> gs.Tensor | None:
        """The input, where it has the shape already that the node gives it."""
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        return node.inputs[0] if before is not None and None not in before and before == after else None

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        if before is None or after is None:
            return []
        found = []
        for left, right in matched_groups(before, after):
            if len(left) == 1 and len(right) == 1:
                found += same_axis(node, facts, [(left[0], right[0])])
            else:
                found += _regrouped(before, left, after, right)
        return found

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        if index != 0 or before is None or after is None:
            return None
        return next(
            (left[0] for left, right in matched_groups(before, after) if len(left) == 1 and right == [axis]), None
        )

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        """Only axes that are kept: part of a merged axis frees no slice of what it was merged from."""
        return [(0, k.input_axis) for k in facts.links(node) if k.output_axis == axis and k.source is None]


@register("Flatten")
class Flatten(Regrouping):
    """Axes merged into the rows and the columns of a matrix."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Sizes | None:
        before = shape_of(node.inputs[0])
        return None if before is None else flattened(before, int(node.attrs.get("axis", 1)))


@register("Reshape")
class Reshape(AgreementRule, Regrouping):
    """Groups of axes with equal products: kept, merged or split, as an operand says."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Sizes | None:
        before, wanted = shape_of(node.inputs[0]), vectors.of(node.inputs[1])
        if wanted is None or wanted.ndim != 1:
            return None
        dims = vectors.wanted(wanted)
        if not node.attrs.get("allowzero", 0):
            dims = [
                size if size != 0 else before[a] if before and a < len(before) else None for a, size in enumerate(dims)
            ]
        dims = [None if size == -1 else size for size in dims]
        whole = known(before)
        if whole is not None and dims.count(None) == 1:
            left = quotient(product(whole), product(Polynomial.of(size) for size in dims if size is not None))
            dims[dims.index(None)] = None if left is None else left.dim
        return dims

    def agreeing(self, node: gs.Node, values: Mapping[str, int]) -> Iterator[tuple[Dim, Dim]]:
        """Elements before and after, or where a size that is left to the node would be none, of what is behind it."""
        before, after = known(shape_of(node.inputs[0])), int_list(operand(node, 1))
        if before is None or after is None or after.count(-1) > 1 or (0 in after and -1 not in after):
            return
        first = after.index(-1) + 1 if -1 in after else 0
        total, behind = product(before).at(values), math.prod(after[first:])
        if behind and total is not None and (total <= 0 or total % behind or -1 not in after):
            yield product(before[first:]).dim, behind

    def contradiction(self, node: gs.Node) -> str:
        sizes = shape_of(node.inputs[1])
        if sizes is not None and len(sizes) != 1:
            return f"its sizes have the shape {list(sizes)}, and must be a vector"
        return super().contradiction(node)

    def reshapes(self, node: gs.Node, source: gs.Tensor) -> bool:
        """Whether the node would bring `source` to the shape of its output too, if it has as many elements."""
        if node.attrs.get("allowzero", 0):
            return False
        before, shape = shape_of(node.inputs[0]) or (), shape_of(source) or ()
        copied = [a for a, d in enumerate(int_list(node.inputs[1]) or ()) if d == 0]
        return all(a < len(shape) and shape[a] is not None and shape[a] == before[a] for a in copied)

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        same = size_of(node.outputs[0], axis) == order.size  # as another size would have to be told
        return super().writes_in_order(node, output, axis, order, orders) if same else None

    def settled(self, node: gs.Node) -> Array | None:
        """What does the same as a computed shape now that sizes are known; None where that cannot be, or need not.

        One size at most may not be static, such as that of an open batch.
        """
        shape = shape_of(node.outputs[0])
        if shape is None or is_constant(node.inputs[1]) or 0 in shape:
            return None
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        return np.asarray(sizes, np.int64) if sizes.count(-1) <= 1 else None

    def carried(self, node: gs.Node) -> Array | None:
        """The shape with 0 for a size that stays where it is, in place of -1; None where nothing is to change.

        Both compute the same, and from 0 a runtime sees that an open batch is the same before and after.
        """
        before, after, sizes = shape_of(node.inputs[0]), shape_of(node.outputs[0]), int_list(operand(node, 1))
        if node.attrs.get("allowzero", 0) or not sizes or -1 not in sizes:
            return None
        axis = sizes.index(-1)
        if before is None or after is None or axis >= len(before) or not isinstance(before[axis], str):
            return None
        sizes[axis] = 0
        return np.asarray(sizes, np.int64) if before[axis] == after[axis] else None

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        rewriter.set_shape_operand(node, 1, one_is_inferred=True)


def sizes_told(before: Sequence[Dim], after: Sequence[Dim]) -> list[int] | None:
    """What a Reshape is told: 0 for an open size that stays in its place, -1 for another; None where there are more."""
    kept = [isinstance(dim, str) and axis < len(before) and before[axis] == dim for axis, dim in enumerate(after)]
    sizes = [dim if isinstance(dim, int) else 0 if stays else -1 for dim, stays in zip(after, kept, strict=True)]
    return sizes if sizes.count(-1) <= 1 else None


def flattened(shape: Sizes, axis: int) -> list[Dim]:
    """The shape of a matrix of these axes, the first `axis` of which are its rows."""
    axis = axis + len(shape) if axis < 0 else axis
    parts = known(shape[:axis]), known(shape[axis:])
    return [None if part is None else product(part).dim for part in parts]


def _regrouped(before: tuple[Dim, ...], left: list[int], after: tuple[Dim, ...], right: list[int]) -> list[Link]:
    """Links between axes of equal product, by the factors that they share.

    Both sides are cut into the same factors, in row-major order. An input axis all of whose factors lie in one output
    axis is merged into it; an output axis all of whose factors lie in one input axis is split off it. Others have no
    link, nor has anything where the factors do not fit, or an axis that is open or too long to be told apart.
    """
    if 0 in (*before, *after):
        return []
    factors = common_factors([before[a] for a in left], [after[b] for b in right])
    if factors is None:
        return []
    links = []
    for i, j in sorted({(f[1], f[2]) for f in factors}):
        inner = [k for k, f in enumerate(factors) if f[1] == i]
        outer = [k for k, f in enumerate(factors) if f[2] == j]
        sizes = before[left[i]], after[right[j]]
        if any(not isinstance(size, int) or size > MOST_SLICES for size in sizes):
            continue
        if set(inner) <= set(outer):
            source = None if inner == outer else _numbered(factors, inner, outer)
            links.append(Link(0, left[i], 0, right[j], source))
        elif set(outer) <= set(inner):
            links.append(Link(0, left[i], 0, right[j], _numbered(factors, outer, inner), split=True))
    return links


def _numbered(factors: list[tuple[Polynomial, int, int]], part: list[int], whole: list[int]) -> Index:
    """For each index of an axis that is made of the factors `whole`, the index over a part of them."""
    sizes = {k: factors[k][0].number or 0 for k in whole}
    grid = np.indices([*sizes.values()]).reshape(len(whole), -1)
    return np.asarray(np.ravel_multi_index([grid[whole.index(k)] for k in part], [sizes[k] for k in part]))


@register("Expand")
class Expand(SizeRule, Movement):
    """Axes that are not repeated pass through."""

    only_picks = True

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Sizes | None:
        wanted = vectors.of(node.inputs[1])
        if wanted is None or wanted.ndim != 1:
            return None
        return broadcast([shape_of(node.inputs[0]), vectors.wanted(wanted)])

    def contradiction(self, node: gs.Node) -> str:
        before, sizes = shape_of(node.inputs[0]) or (), int_list(node.inputs[1]) or ()
        for size, wanted in zip(reversed(before), reversed(sizes), strict=False):
            if isinstance(size, int) and 1 not in (size, wanted) and size != wanted:
                return f"{list(before)} cannot be given the sizes {list(sizes)}"
        return ""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        if before is None or after is None:
            return []
        shift = len(after) - len(before)
        found = same_axis(node, facts, [(a, a + shift) for a in range(len(before))])
        for axis, dim in enumerate(before):
            size = facts.size(node.outputs[0], axis + shift)
            if dim == 1 and size is not None and size > 1:  # one slice is repeated
                found.append(Link(0, axis, 0, axis + shift, np.zeros(size, np.int64)))
        return found

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        value = facts.uniform(node.inputs[0])
        if value is None:
            yield from super().constants(node, facts)
        else:
            yield from filled(node, facts, value)

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        rewriter.set_shape_operand(node, 1, one_is_inferred=False)


def is_static(dims: Sequence[Dim]) -> bool:
    """Whether all are numbers."""
    return all(isinstance(d, int) for d in dims)


class Measuring(Op):
    """Reads no values, only how many there are."""

    foldable = True
    flops_per_element = 0

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        for axis in range(len(shape_of(node.inputs[0]) or ())):
            size = facts.size(node.inputs[0], axis)
            if size is not None:
                yield 0, axis, np.zeros(size, bool)

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        return {(0, axis): Demand(mask, flexible=True) for _, axis, mask in self.reads(node, facts)}


@register("Shape")
class Shape(ElementRule, Measuring):
    """Reads no values; the sizes it gives are those before anything was removed."""

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        shape, end = shape_of(node.inputs[0]), node.attrs.get("end")
        return None if shape is None else vectors.measured(shape[int(node.attrs.get("start", 0)) : end])

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        shape = rewriter.shape(rewriter.before.inputs[0])
        start, end = int(node.attrs.get("start", 0)), node.attrs.get("end", len(shape))
        changed = [rewriter.required(node, 0, a) is not None for a in range(len(shape))][start:end]
        if any(changed):
            original = np.asarray([d if c else 0 for d, c in zip(shape[start:end], changed, strict=True)], np.int64)
            rewriter.override(node, np.asarray(changed), original)


@register("NonZero", "EyeLike")
class Generated(Op):
    """Made from sizes alone: computed beforehand when those are constant."""

    foldable = True
    flops_per_element = 0


@register("Range")
class Range(SizeRule, Generated):
    """Numbers one after another, as many as lie between two others."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Sizes | None:
        ends = [end for tensor in node.inputs if (end := vectors.of(tensor)) is not None and end.dtype.kind in "iuO"]
        if len(ends) < len(node.inputs) or any(end.size != 1 for end in ends):
            return [None]
        start, limit, step = (polynomials(end.reshape(1))[0] for end in ends)
        if None in (start, limit, step) or step.number != 1:
            return [None]
        return vectors.wanted(np.asarray([limit - start], object))


@register("BlackmanWindow", "HammingWindow", "HannWindow")
class Windowing(Generated):
    """Computed at run time: runtimes round the zeros at the ends differently."""

    foldable = False


@register("ConstantOfShape")
class ConstantOfShape(SizeRule, Generated):
    """One value throughout."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Sizes | None:
        wanted = vectors.of(node.inputs[0])
        sizes = None if wanted is None or wanted.ndim != 1 else vectors.wanted(wanted)
        return None if sizes is None or any(isinstance(size, int) and size < 0 for size in sizes) else sizes

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        tensor = node.attrs.get("value")
        if tensor is None:
            yield from filled(node, facts, np.zeros((), np.float32))
        elif not isinstance(tensor.dtype, int) and np.size(tensor.values) == 1:
            yield from filled(node, facts, np.asarray(tensor.values).reshape(()))


@register("Size")
class Size(ElementRule, Measuring):
    """Reads no values; the number it gives counts what was removed too."""

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        shape = shape_of(node.inputs[0])
        if shape is None or None in shape:
            return None
        return np.asarray(product(polynomials(vectors.measured(shape))), object)

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        rank = len(rewriter.shape(rewriter.before.inputs[0]))
        narrowed = [mask for a in range(rank) if (mask := rewriter.required(node, 0, a)) is not None]
        if narrowed:
            whole, left = np.prod([s.size for s in narrowed]), np.prod([s.sum() for s in narrowed])
            rewriter.insert_after(node, "Mul", rewriter.constant("whole", np.asarray(whole, np.int64)))
            rewriter.insert_after(node, "Div", rewriter.constant("left", np.asarray(left, np.int64)))


@register("Constant")
class Constant(Generated):
    """A value among the attributes."""

    scope = "place"

    def value(self, node: gs.Node) -> Array | None:
        """The value; None where numpy has no type for it."""
        if "value" in node.attrs:
            tensor = node.attrs["value"]
            return None if isinstance(tensor.dtype, int) else np.asarray(tensor.values)
        for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
            for key in (name, f"{name}s"):
                if key in node.attrs:
                    return np.asarray(node.attrs[key], dtype)
        return None


@register("Transpose")
class Transpose(SizeRule, Rearrangement):
    """Axes in another order."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Sizes | None:
        shape = shape_of(node.inputs[0])
        return None if shape is None or self.contradiction(node) else [shape[a] for a in self.perm(node, len(shape))]

    def contradiction(self, node: gs.Node) -> str:
        shape, perm = shape_of(node.inputs[0]), node.attrs.get("perm")
        if shape is None or perm is None or sorted(perm) == list(range(len(shape))):
            return ""
        return f"its perm {list(perm)} is no order of the {len(shape)} axes of its input"

    def arranged(self, node: gs.Node, places: Arrangement) -> Arrangement | None:
        return transposed(places, self.perm(node, sum(block.axes for block in places)))

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        shape = shape_of(node.inputs[0])
        if shape is None:
            return []
        return same_axis(node, facts, [(a, b) for b, a in enumerate(self.perm(node, len(shape)))])

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return self.perm(node, len(node.inputs[0].shape))[axis] if node.inputs[0].shape is not None else None

    @staticmethod
    def perm(node: gs.Node, rank: int) -> list[int]:
        """Of each axis of the output, that of the input, which has so many."""
        return list(node.attrs.get("perm") or range(rank)[::-1])


@register("Squeeze", "Unsqueeze")
class Squeeze(Rearrangement):
    """Axes of size 1 are added or removed; the others keep their order."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, self._pairs(node))

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return next((a for a, b in self._pairs(node) if b == axis), None) if index == 0 else None

    @staticmethod
    def _pairs(node: gs.Node) -> list[tuple[int, int]]:
        """Axes that stay, before and after."""
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        axes = integers(node, "axes", 1)
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
