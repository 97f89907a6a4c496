"""Borders around a tensor."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import ConstantMap, Sliding
from passes.abstract_values.polynomial import Polynomial
from passes.abstract_values.row_index import Rows
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule, polynomials
from passes.abstract_values.slices import Constants, ConstantSlices, Link, Maps, Sets, merge
from passes.abstract_values.windows import Window
from passes.graph.tensors import (
    MOST_SLICES,
    Array,
    Mask,
    int_list,
    is_constant,
    numpy_dtype,
    operand,
    shape_of,
    size_of,
    values_of,
)
from passes.ops.base import integers, register
from passes.ops.movement import Movement, same_axis
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter


def fill_of(pad: gs.Node) -> Array | None:
    """What is stored of the constant that a Pad fills with; None for other modes, or if it is computed."""
    value = operand(pad, 2)
    if pad.attrs.get("mode", "constant") != "constant" or not (value is None or is_constant(value)):
        return None
    return np.asarray(pad.attrs.get("value", 0.0)) if value is None else values_of(value)


def picked_of_padded(gather: gs.Node) -> tuple[int, Array, Mask] | None:
    """Of slices that are picked of what a Pad appends zeros to: the axis, which of its input, and whether it has them.

    Shapes [slices]; None where it pads in another way, or the slices are computed. A slice of zeros is slice 0.
    """
    pad, index = gather.inputs[0].inputs[0], gather.inputs[1]
    fill, ends, rank = fill_of(pad), int_list(operand(pad, 1)), len(shape_of(pad.inputs[0]) or ())
    axis = int(gather.attrs.get("axis", 0)) % max(rank, 1)
    channels, total = size_of(pad.inputs[0], axis), size_of(gather.inputs[0], axis)
    if fill is None or fill.any() or operand(pad, 3) is not None or ends is None or len(ends) != 2 * rank:
        return None
    if not channels or not total or not is_constant(index) or len(index.shape) != 1:
        return None
    if [i for i, n in enumerate(ends) if n] != [rank + axis]:
        return None
    at = values_of(index) % total
    there = at < channels
    return axis, np.where(there, at, 0), there


@register("Pad")
class Pad(SizeRule, Movement):
    """Amounts are constant, or computed and zero on some axes; padding with a constant adds constant slices.

    Amounts below zero cut slices off.
    """

    reason = kept_reasons.EACH_BY_ITSELF

    def _pads(self, node: gs.Node) -> list[tuple[int, int]] | None:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return None
        pads = integers(node, "pads", 1)
        if pads is None or (operand(node, 3) is not None and int_list(operand(node, 3)) is None):
            return None
        axes = [a % rank for a in int_list(operand(node, 3)) or range(rank)]
        if len(pads) != 2 * len(axes):  # not valid, as ONNX Runtime will say
            return None
        amounts = {a: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
        return [amounts.get(a, (0, 0)) for a in range(rank)]

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        pads = self._pads(node)
        return node.inputs[0] if pads is not None and not any(map(any, pads)) else None

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
        """The constant that is padded with, None for other modes or if it is not known."""
        if node.attrs.get("mode", "constant") != "constant":
            return None
        tensor = operand(node, 2)
        if tensor is None:
            return float(node.attrs.get("value", 0.0))
        value = facts.uniform(tensor)
        return None if value is None else float(value)

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        shape, computed = shape_of(node.inputs[0]), operand(node, 1)
        if not shape:
            return None
        amounts = self._pads(node)
        pads = None if computed is None or operand(node, 3) is not None else vectors.of(computed)
        totals: list[Polynomial | None]
        if amounts is not None:
            totals = [Polynomial.of(before + after) for before, after in amounts]
        elif pads is not None and pads.size == 2 * len(shape):
            pairs = zip(*polynomials(pads).reshape(2, -1), strict=True)
            totals = [None if None in pair else pair[0] + pair[1] for pair in pairs]
        else:
            return None
        return [
            None if size is None or total is None else (Polynomial.of(size) + total).dim
            for size, total in zip(shape, totals, strict=True)
        ]

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        amounts = self._amounts(node, facts)
        found = same_axis(node, facts, [(a, a) for a, p in enumerate(amounts) if p == (0, 0)])
        for axis, (before, after) in enumerate(self._pads(node) or ()):
            size = facts.size(node.inputs[0], axis)
            if size is None or (before, after) == (0, 0) or self._value(node, facts) is None:
                continue
            if before + size + after > MOST_SLICES:
                continue
            source = np.arange(-before, size + after)
            inside = (source >= 0) & (source < size)
            if inside.any():
                found.append(Link(0, axis, 0, axis, np.where(inside, source, -1)))
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
        elsewhere = any(p is None or max(p) > 0 for a, p in enumerate(amounts) if a != link.input_axis)
        constant_mode = node.attrs.get("mode", "constant") == "constant"
        if elsewhere and constant_mode:  # a border of another value makes the slice uneven
            value = self._value(node, facts)
            return None if value is None else known.only(value)
        return known

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        found = {axis: known for _, axis, known in super().constants(node, facts)}
        value = self._value(node, facts)
        for link in facts.links(node):
            if link.source is not None and value is not None:
                values = np.full(link.source.shape, value, numpy_dtype(node.inputs[0]))
                border, axis = ConstantSlices(link.source < 0, values), link.output_axis
                found[axis] = merge(border, found[axis]) if axis in found else border
        yield from ((0, axis, known) for axis, known in found.items())

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        pads = self._pads(node)
        return axis if pads is not None and pads[axis] == (0, 0) and index == 0 else None

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
        if mode in ("reflect", "edge") and known.is_static(range(len(others))):
            index = [
                None if rows is None else Rows(np.pad(rows.places, pads[a], mode=mode))
                for rows, a in zip(known.index, others, strict=True)
            ]
            return ConstantMap(known.mask, known.value, tuple(index))
        if mode != "constant" or value is None:
            return None
        windows = [Window(1, before=pads[a][0], after=pads[a][1]) for a in others[1:]]
        found = Sliding(windows, [facts.dim(node.inputs[0], a) for a in others[1:]]).over(known, value)
        if found is None:
            return None
        return ConstantMap(known.mask, found[1].reshape(found[1].shape[: len(pads)]), found[0])

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        pads = self._pads(rewriter.before)
        if pads is None:
            return
        amounts = []
        for axis, (before, after) in enumerate(pads):
            stored, required = rewriter.stored(rewriter.before.outputs[0], axis), rewriter.required(node, 0, axis)
            if required is not None:
                before, after = max(before, 0), max(after, 0)  # what would be cut off is not there
            if stored is not None and (before, after) != (0, 0):
                before, after = int(stored[: max(before, 0)].sum()), int(stored[len(stored) - max(after, 0) :].sum())
            amounts.append((before, after))
        if amounts == pads:
            return
        flat = [p[0] for p in amounts] + [p[1] for p in amounts]
        inputs, node.attrs = rewriter.editor.form("Pad", node.inputs[:1], {**node.attrs, "pads": flat})
        node.inputs = [*inputs, *node.inputs[2:3]]
