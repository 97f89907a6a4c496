"""Operators that trade channels for positions, or repeat them: one input channel makes several, or back."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import ConstantMap, refined
from passes.abstract_values.polynomial import shifted_quotient
from passes.abstract_values.row_index import Rows
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule, times
from passes.abstract_values.slices import Link, Maps
from passes.graph.tensors import MOST_SLICES, Index, int_list, operand, shape_of, size_of
from passes.ops.base import Linked, register
from passes.ops.movement import Movement, Repeating, same_axis
from passes.rewriting.channel_facts import Facts

# Examples, channels, height and width.
_AXES = 4


@register("Tile")
class Tile(SizeRule, Repeating):
    """Constant repeats."""

    only_picks = True

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        before, repeats = shape_of(node.inputs[0]), vectors.of(node.inputs[1])
        if before is None or repeats is None or repeats.shape != (len(before),):
            return None
        return [*map(times, before, vectors.wanted(repeats))]

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        repeats = int_list(operand(node, 1))
        if repeats is None or node.inputs[0].shape is None:
            return []
        found = same_axis(node, facts, [(a, a) for a, r in enumerate(repeats) if r == 1])
        for axis, count in enumerate(repeats):
            size = facts.size(node.inputs[0], axis)
            if size and 1 < count <= MOST_SLICES // size:
                found.append(Link(0, axis, 0, axis, np.tile(np.arange(size), count)))
        return found


class SpaceAndDepth(SizeRule, Movement):
    """Blocks of `blocksize` by `blocksize` positions on one side, as many groups of channels on the other.

    Source: ONNX operator specification, DepthToSpace and SpaceToDepth.
    """

    reason = kept_reasons.REGROUPED
    #: whether an output channel is made from several input channels, or the other way round
    joins = False

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        sizes = [size for t in (node.inputs[0], node.outputs[0]) if (size := facts.size(t, 1)) is not None]
        found = same_axis(node, facts, [(0, 0)])
        if len(sizes) == 2:
            found.append(Link(0, 1, 0, 1, self.places(node, max(sizes))[0], split=self.joins))
        return found

    def places(self, node: gs.Node, wide: int) -> tuple[Index, Index, int]:
        """For each of `wide` channels on the deep side: the channel on the other side, and the place in the block."""
        block = int(node.attrs["blocksize"])
        number, count = np.arange(wide), wide // block**2
        if node.attrs.get("mode", "DCR") == "CRD" and self.joins:
            return number // block**2, number % block**2, block
        return number % count, number // count, block

    def positions(self, node: gs.Node, facts: Facts, known: ConstantMap) -> list[Index] | None:
        """Which row of the input's maps lies at each position of its two spatial axes, None if not static."""
        examples, *sides = known.index
        sizes = [size for axis in (2, 3) if (size := facts.size(node.inputs[0], axis)) is not None]
        if examples is not None or len(sizes) < len(sides):
            return None
        return [np.zeros(n, np.int64) if rows is None else rows.places for rows, n in zip(sides, sizes, strict=True)]


@register("DepthToSpace")
class DepthToSpace(SpaceAndDepth):
    """An output channel is made from several input channels."""

    joins = True

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        before, block = shape_of(node.inputs[0]), int(node.attrs["blocksize"])
        if before is None or len(before) != _AXES or block < 1:
            return None
        batch, channels, height, width = before
        fewer = None if channels is None else shifted_quotient(channels, 0, block**2)
        return [batch, fewer, times(height, block), times(width, block)]

    def contradiction(self, node: gs.Node) -> str:
        channels, block = size_of(node.inputs[0], 1), int(node.attrs["blocksize"])
        if channels is None or (block and channels % block**2 == 0):
            return ""
        return f"its input has {channels} channels, which blocks of {block} × {block} do not divide"

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        known, wide = facts.maps(node.inputs[0], 1), facts.size(node.inputs[0], 1)
        rows_at = None if known is None else self.positions(node, facts, known)
        if known is None or wide is None or rows_at is None:
            return
        channel, place, block = self.places(node, wide)
        order = np.lexsort((place, channel))
        rows, columns = known.value.shape[2:]
        woven = known.value[order].reshape(-1, block, block, rows, columns)
        value = woven.transpose(0, 3, 1, 4, 2).reshape(-1, 1, rows * block, columns * block)
        index = [Rows((i[:, None] * block + np.arange(block)).reshape(-1)) for i in rows_at]
        yield 0, 1, ConstantMap(np.asarray(known.mask[order].reshape(-1, block**2).all(axis=1)), value, (None, *index))


@register("SpaceToDepth")
class SpaceToDepth(Repeating, SpaceAndDepth):
    """An input channel becomes several output channels."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        before, block = shape_of(node.inputs[0]), int(node.attrs["blocksize"])
        if before is None or len(before) != _AXES or block < 1:
            return None
        batch, channels, *sides = before
        fewer = [None if side is None else shifted_quotient(side, 0, block) for side in sides]
        return [batch, times(channels, block**2), *fewer]

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        known = facts.maps(node.inputs[0], 1) if facts.uneven(node.inputs[0], 1) is not None else None
        rows_at = None if known is None else self.positions(node, facts, known)
        if known is None or rows_at is None:
            return
        block = int(node.attrs["blocksize"])
        rows, columns = rows_at
        parts = [
            ConstantMap(known.mask, known.value, (None, Rows(rows[i::block]), Rows(columns[j::block])))
            for i in range(block)
            for j in range(block)
        ]
        joint = refined(parts)
        if joint is not None:
            yield 0, 1, ConstantMap(np.tile(known.mask, len(parts)), np.concatenate(joint[1]), joint[0])


@register("Col2Im")
class Col2Im(Linked):
    """Blocks of positions added where they overlap: of constants, only zero remains constant."""

    flops_per_element = 0
    foldable = True
    preserves = "zeros"
    reason = kept_reasons.REGROUPED

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        wide, narrow = facts.size(node.inputs[0], 1), facts.size(node.outputs[0], 1)
        found = same_axis(node, facts, [(0, 0)])
        if not wide or not narrow or wide % narrow:
            return found
        return [*found, Link(0, 1, 0, 1, np.arange(wide) // (wide // narrow), split=True)]
