"""Operators that change the shape, or compute with it.

Tensors that hold shapes keep speaking of the original sizes, whatever is stored; the operators that use them as
operands are given the stored sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.ops.base import Demand, Demands, Known, Link, Linked, Op, Reads, Sets, register
from passes.ops.movement import Movement, same_axis
from passes.shapes import matched_groups
from passes.tensors import Dim, Index, int_list, operand, shape_of

if TYPE_CHECKING:
    from passes.facts import Facts
    from passes.rewrite import Rewriter


@register("Reshape", "Flatten")
class Reshape(Movement):
    """Groups of axes with equal products: kept, merged or split. What is stored stays a product of axis sets."""

    reason = "regroups the elements of several axes"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        if before is None or after is None:
            return []
        found = []
        for left, right in matched_groups(before, after):
            if len(left) == 1 and len(right) == 1:
                found += same_axis(node, facts, [(left[0], right[0])])
            elif len(right) == 1 and left:
                found += [Link(0, a, 0, right[0], s) for a, s in _coordinates(before, left)]
            elif len(left) == 1 and right:
                found += [Link(0, left[0], 0, b, s, split=True) for b, s in _coordinates(after, right)]
        return found

    def produces(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        """A merged axis stores a full product: every combination of the slices that its parts need."""
        result = super().produces(node, facts, asked)
        parts = self._project(node, facts, asked)
        for link in facts.links(node):
            key = 0, link.output_axis
            if key in result and link.source is not None and not link.split:
                held = parts[0, link.input_axis][link.source]
                result[key] = held if result[key] is asked[key] else result[key] & held
        return result

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        if node.op == "Reshape":
            rewriter.set_shape_operand(node, 1, allow_copy=not node.attrs.get("allowzero", 0))


def _coordinates(shape: tuple[Dim, ...], axes: list[int]) -> list[tuple[int, Index]]:
    """For axes merged in row-major order: each axis with its index at every merged position; [] if not static."""
    sizes = [d for a in axes if isinstance(d := shape[a], int)]
    if len(sizes) < len(axes):
        return []
    grid = np.indices(sizes).reshape(len(sizes), -1)
    return [(a, grid[i]) for i, a in enumerate(axes)]


@register("Expand")
class Expand(Movement):
    """Axes that are not repeated stay as they are."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        if before is None or after is None:
            return []
        shift = len(after) - len(before)
        return same_axis(node, facts, [(a, a + shift) for a in range(len(before))])

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        rewriter.set_shape_operand(node, 1, allow_copy=False)


@register("Tile")
class Tile(Movement):
    """Axes that are repeated once."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        repeats = int_list(operand(node, 1))
        if repeats is None:
            return []
        return same_axis(node, facts, [(a, a) for a, r in enumerate(repeats) if r == 1])


@register("Shape")
class Shape(Op):
    """Reads no values; the sizes it gives are those before anything was removed."""

    foldable = True

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        for axis in range(len(shape_of(node.inputs[0]) or ())):
            size = facts.size(node.inputs[0], axis)
            if size is not None:
                yield 0, axis, np.zeros(size, bool)

    def sees(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        return {(0, axis): Demand(mask, flexible=True) for _, axis, mask in self.reads(node, facts)}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        shape = rewriter.shape(rewriter.before.inputs[0])
        start, end = int(node.attrs.get("start", 0)), node.attrs.get("end", len(shape))
        changed = [rewriter.seen(node, 0, a) is not None for a in range(len(shape))][start:end]
        if any(changed):
            original = np.asarray([d if c else 0 for d, c in zip(shape[start:end], changed, strict=True)], np.int64)
            rewriter.override(node, np.asarray(changed), original)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return 0, 0


@register("ConstantOfShape", "Range", "Size", "NonZero", "OneHot", "EyeLike", "Trilu")
class Generated(Op):
    """Made from sizes alone: computed beforehand when those are constant."""

    foldable = True

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return 0, 0


@register("Resize", "Upsample")
class Resize(Linked):
    """Interpolation within each slice of an axis that keeps its size."""

    reason = "resizes each channel"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        sizes_at_run_time = operand(node, 3) is not None and int_list(operand(node, 3)) is None
        if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize" or sizes_at_run_time:
            return []
        scales = node.attrs.get("scales") or _floats(
            operand(node, 2 if node.op == "Resize" and len(node.inputs) > 2 else 1)
        )
        kept = range(rank) if not scales or "axes" in node.attrs else [a for a in range(rank) if scales[a] == 1]
        return same_axis(node, facts, [(a, a) for a in kept])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        mode = node.attrs.get("mode", "nearest")
        return known if mode in ("nearest", "linear") else None

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        sizes = int_list(operand(node, 3))
        if sizes is None or "axes" in node.attrs:
            return
        counts = [rewriter.stored_count(node.outputs[0], a) for a in range(len(sizes))]
        new = np.asarray([s if c is None else c for s, c in zip(sizes, counts, strict=True)], np.int64)
        rewriter.set_inputs(node, [*list(node.inputs)[:3], rewriter.constant("sizes", new)])


def _floats(tensor: gs.Tensor | None) -> list[float] | None:
    values = getattr(tensor, "values", None)
    return None if values is None else [float(v) for v in np.asarray(values).reshape(-1)]
