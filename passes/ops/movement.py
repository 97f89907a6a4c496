"""Operators that move data and compute nothing: each output slice is an input slice, or a constant."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import MOST_PLACES, ConstantMap, combined
from passes.abstract_values.row_index import Rows, together
from passes.abstract_values.shape_rules import ElementRule, Elements, ReadRule, Shape, ShapeVectors, picked
from passes.abstract_values.slices import Constants, ConstantSlices, Dependences, Link, Maps, Masks, Sets
from passes.graph.evaluate import evaluate
from passes.graph.tensors import Array, along, is_constant, is_float, numpy_dtype, present, rank_of, shape_of, size_of
from passes.ops.base import Linked
from passes.ops.traits import DependenceTransfer, NaturalSlices, passed_on
from passes.rewriting.channel_facts import Facts


class Movement(ElementRule, ReadRule, Linked, DependenceTransfer, NaturalSlices):
    """No arithmetic, no FLOPs."""

    flops_per_element = 0
    foldable = True
    may_overflow = False
    #: whether every element of the outputs is one of input 0
    only_picks = False
    reason = kept_reasons.EACH_BY_ITSELF

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        return facts.lowest(node.inputs[0]) if self.only_picks else -math.inf

    def natural(self, node: gs.Node, facts: Facts) -> Masks:
        for link in facts.links(node) if self.only_picks else ():
            before = facts.natural.get(node.inputs[0].name, {}).get(link.input_axis)
            if before is not None and link.input == 0 and not link.split:
                after = before if link.source is None else before[link.source] & (link.source >= 0)
                yield link.output, link.output_axis, after

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        moved = self.moved_operands(node)
        data, others = vectors.of_parts(node.inputs[:moved]), [vectors.of(t) for t in node.inputs[moved:]]
        if any(x is None for x in data) or any(x is not None and x.dtype == object for x in others):
            return None
        if any(x is None and t.name for x, t in zip(others, node.inputs[moved:], strict=True)):
            return None

        def compute(numbers: list[Array]) -> Array | None:
            found = evaluate(node, vectors.opset, [*numbers, *others])
            return None if found is None else found[0]

        return picked(compute, [x for x in data if x is not None])

    def moved_operands(self, node: gs.Node) -> int:
        """How many of the first operands hold the elements that are moved."""
        return 1

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        """Those of axes that stay as they are."""
        for index, tensor in enumerate(node.inputs[: self.moved_operands(node)]):
            after = [(k, a, size) for k, t in enumerate(node.outputs) for a, size in enumerate(shape_of(t) or ())]
            if tensor.shape is not None:
                sizes = {self.along(node, index, output, axis): size for output, axis, size in after}
                yield index, [sizes.get(axis) for axis in range(len(tensor.shape))]

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        yield from passed_on(node, facts) if self.only_picks else ()

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        """The axis of input `index` whose positions, all and in order, are those of this axis of the output.

        Asked where sizes are not static, as there are no links then; None where there is no such axis.
        """
        return None

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        """Channels and positions are picked from the maps of the inputs."""
        if not any(t.name in facts.constant_map for t in node.inputs):
            return
        links = facts.links(node)
        uneven = [k for k in links if facts.uneven(node.inputs[k.input], k.input_axis) is not None]
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
        rank, rows = rank_of(output), list(known.index)
        targets: dict[int, list[int]] = {}  # output axis: the axes of the input that lie along it
        for place, given in enumerate(known.index):
            if given is not None:
                found = self._target(node, facts, links, part, place + (place >= part.input_axis), given)
                if found is None:
                    return None
                rows[place] = found[1]
                targets.setdefault(found[0], []).append(place)
        source = np.arange(len(known.mask)) if part.source is None else part.source
        # what is only said to be known, and of no value
        unvalued = ConstantSlices(known.mask[source] & (source >= 0), np.full(source.shape, np.nan))
        mask = self.constant(node, facts, part, unvalued)
        if mask is None:
            return None
        merged = {place: rows[place] for place in targets.pop(part.output_axis, ())}  # each slice is of one row there
        picks = [source, *(np.zeros(1, np.int64) if r is None else r.places for r in map(merged.get, range(len(rows))))]
        index: list[Rows | None] = []
        shapes = [along(0, rank)] * (len(rows) + 1)
        for axis in (a for a in range(rank) if a != part.output_axis):
            joint = together([rows[place] for place in targets.get(axis, ())])
            if joint is None:
                return None
            index.append(joint[0])
            for number, place in enumerate(targets.get(axis, ())):
                picks[place + 1], shapes[place + 1] = joint[1][:, number], along(len(index), rank)
        value = known.value[tuple(p.reshape(s) for p, s in zip(picks, shapes, strict=True))]
        return ConstantMap(mask.mask, value, tuple(index))

    def _target(
        self, node: gs.Node, facts: Facts, links: list[Link], part: Link, axis: int, rows: Rows
    ) -> tuple[int, Rows] | None:
        """The axis of the output that positions along this axis of the input go to, and the rows there."""
        output = node.outputs[part.output]
        if rows.course is not None:
            for a in range(rank_of(output)):
                if self.along(node, part.input, part.output, a) == axis and facts.dim(output, a) == rows.size:
                    return a, rows
            return None
        for link in links:
            if (link.input, link.output, link.input_axis) == (part.input, part.output, axis) and not link.split:
                if link.source is None:
                    return link.output_axis, rows
                return None if (link.source < 0).any() else (link.output_axis, Rows(rows.places[link.source]))
        return None


class Repeating(Movement):
    """Several output slices hold one input slice, each in its own way: all of them are stored or none."""

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        result = super().storable_outputs(node, facts, asked)
        parts = self._project(node, facts, asked)
        for link in facts.links(node):
            key = 0, link.output_axis
            if key in result and link.source is not None and not link.split:
                copies = parts[link.input, link.input_axis][link.source]
                result[key] = copies if result[key] is asked[key] else result[key] & copies
        return result


def stored_alike(sets: Sets, axes: Collection[int], outputs: int) -> Sets:
    """Along these axes all outputs, so many, store the same, as they come from one input; or none is narrower."""
    result = dict(sets)
    for axis in axes:
        keys = [key for key in sets if key[1] == axis]
        for key in keys:
            del result[key]
        if len(keys) == outputs:
            result |= dict.fromkeys(keys, np.asarray(np.logical_or.reduce([sets[key] for key in keys])))
    return result


def whole_line(facts: Facts, tensor: gs.Tensor, axis: int) -> Array | None:
    """The constants along an axis, [..., size, ...] with 1 for the other axes; None unless all slices are constant."""
    known = facts.known(tensor, axis)
    return known.value.reshape(along(axis, rank_of(tensor))) if known is not None and known.mask.all() else None


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
    for axis, size in facts.axes(node.outputs[0]) if node.outputs[0].outputs else ():
        yield 0, axis, ConstantSlices(np.ones(size, bool), np.full(size, value))


def maps_by_slices(node: gs.Node, facts: Facts, along: Collection[int], data: int = 0) -> Maps:
    """Maps of output 0 of an operator that works along these axes of its data, and is the same along all others.

    Only along them sizes may change; all other operands are constant.
    """
    x, others = node.inputs[data], [t for i, t in present(node.inputs) if i != data]
    if is_constant(x) or not is_float(x) or not all(map(is_constant, others)):
        return
    for axis in range(len(x.shape or ())):
        if axis in along or size_of(x, axis) is None or facts.constants(x, axis) is None:
            continue
        known = facts.maps(x, axis)
        found = None if known is None else _evaluated(node, facts, axis, known, along, data)
        if found is not None:
            yield 0, axis, found


def _evaluated(
    node: gs.Node, facts: Facts, axis: int, known: ConstantMap, along: Collection[int], data: int
) -> ConstantMap | None:
    """The operator on the known slices alone, in double precision."""
    value, index = known.value[known.mask].astype(np.float64), list(known.index)
    if math.prod(facts.size(node.outputs[0], other) or MOST_PLACES + 1 for other in along) > MOST_PLACES:
        return None
    for other in along:
        place, size = other - (other > axis), facts.size(node.inputs[data], other)
        rows = index[place]
        if not size or (rows is not None and rows.course is not None):
            return None
        value = np.take(value, np.zeros(size, np.int64) if rows is None else rows.places, axis=place + 1)
        if value[0].size > MOST_PLACES:
            return None
    operands = [None if i == data or t.is_empty() else facts.value(t) for i, t in enumerate(node.inputs)]
    operands = [v.astype(np.float64) if v is not None and v.dtype.kind == "f" else v for v in operands]
    operands[data] = np.moveaxis(value, 0, axis)
    results = evaluate(node, facts.opset, operands)
    if results is None:
        return None
    found = np.moveaxis(results[0], axis, 0)
    others = {other - (other > axis) + 1 for other in along}
    if any(found.shape[place] != size for place, size in enumerate(value.shape) if place not in others):
        return None  # an operand is another for each of the slices
    for place in others:
        index[place - 1] = Rows(np.arange(found.shape[place])) if found.shape[place] > 1 else None
    full = np.zeros((known.mask.size, *found.shape[1:]), numpy_dtype(node.outputs[0]))
    full[known.mask] = found
    return ConstantMap(known.mask, full, tuple(index))
