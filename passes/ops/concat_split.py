"""Joining tensors along an axis, and cutting them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import MOST_PLACES, ConstantMap
from passes.abstract_values.polynomial import Polynomial
from passes.abstract_values.row_index import Rows
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule, united
from passes.abstract_values.slices import Constants, ConstantSlices, Demands, Link, Maps, Sets, agreed
from passes.graph.editor import Change
from passes.graph.tensors import Index, is_constant, rank_of, shape_of, size_of
from passes.ops.base import axis_attribute, register
from passes.ops.movement import Movement, stored_alike
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering
from passes.rewriting.lower_ops import Rewriter
from passes.rewriting.weight_scaling import AffineFolding, Fuser


@register("Concat")
class Concat(SizeRule, Movement):
    """Operands side by side along `axis`; one that stores nothing there is left out."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        shapes = [shape for tensor in node.inputs if (shape := shape_of(tensor)) is not None]
        if len(shapes) < len(node.inputs) or len({*map(len, shapes)}) != 1 or not shapes[0]:
            return None
        axis = node.attrs["axis"] % len(shapes[0])
        sizes = [shape[axis] for shape in shapes]
        known = [Polynomial.of(size) for size in sizes if size is not None]
        total = sum(known, Polynomial()).dim if len(known) == len(sizes) else None
        return [total if a == axis else united(dims) for a, dims in enumerate(zip(*shapes, strict=True))]

    def parts(self, node: gs.Node) -> list[gs.Tensor]:
        """The operands without those that are known to hold nothing, such as one part of a roll by zero."""
        return [t for t in node.inputs if size_of(t, axis_attribute(node)) != 0] or node.inputs[:1]

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        return node.inputs[0] if len(node.inputs) == 1 else None

    def moved_operands(self, node: gs.Node) -> int:
        return len(node.inputs)

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return axis if axis != node.attrs["axis"] % rank_of(node.outputs[0]) else None

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
        sizes = [size for t in node.inputs if (size := facts.size(t, axis)) is not None]
        if facts.size(node.outputs[0], axis) is None or len(sizes) < len(node.inputs):
            return found
        part, place = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])
        return found + [Link(index, axis, 0, axis, np.where(part == index, place, -1)) for index in range(len(sizes))]

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        for axis in sorted({k.output_axis for k in facts.links(node) if k.source is None}):
            known = [k for t in node.inputs if (k := facts.known(t, axis)) is not None]
            if len(known) == len(node.inputs):
                yield 0, axis, agreed(known)

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
        axis, demands = axis_attribute(node), super().required_inputs(node, facts, stored)
        return {key: replace(demand, optional=key[1] == axis) for key, demand in demands.items()}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        axis = node.attrs["axis"] % max(len(rewriter.shape(rewriter.before.outputs[0])), 1)
        required = [rewriter.required(node, i, axis) for i in range(len(node.inputs))]
        kept = [t for t, mask in zip(list(node.inputs), required, strict=True) if mask is None or mask.any()]
        node.inputs = kept


@register("Split")
class Split(Movement, AffineFolding, Reordering):
    """Parts along `axis`, each cut to what it stores; a part that stores nothing is left out."""

    only_picks = True

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        return node.inputs[0] if len(node.outputs) == 1 else None

    def contradiction(self, node: gs.Node) -> str:
        shape, axis = shape_of(node.inputs[0]), int(node.attrs.get("axis", 0))
        if shape is None or -len(shape) <= axis < len(shape):
            return ""
        return f"its axis is {axis}, and its input has {len(shape)} axes"

    def along(self, node: gs.Node, index: int, output: int, axis: int) -> int | None:
        return axis if axis != axis_attribute(node) and index == 0 else None

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        shape = shape_of(node.inputs[0])
        if not shape:
            return []
        axis, found = axis_attribute(node), []
        for index, tensor in enumerate(node.outputs):
            others = [a for a in range(len(shape)) if a != axis and facts.size(tensor, a) is not None]
            same = [a for a in others if facts.size(tensor, a) == facts.size(node.inputs[0], a)]
            found += [Link(0, a, index, a) for a in same]
        sizes = [size for t in node.outputs if (size := facts.size(t, axis)) is not None]
        if facts.size(node.inputs[0], axis) is None or len(sizes) < len(node.outputs):
            return found
        parts = zip(sizes, np.cumsum(sizes), strict=True)
        return found + [Link(0, axis, i, axis, np.arange(end - size, end)) for i, (size, end) in enumerate(parts)]

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """What scales and shifts one part can be put into the node before, if it leaves the other parts alone."""
        rank = len(shape_of(node.inputs[0]) or ())
        axis = rank - affine.axis if affine.axis is not None else None
        sizes = [size_of(t, axis) or 0 for t in node.outputs] if axis is not None else []
        if not rank or axis is None or axis_attribute(node) != axis or 0 in sizes:
            return False
        output = next(i for i, t in enumerate(node.outputs) if t is affine.data)
        if not {affine.scale.size, affine.shift.size} <= {1, sizes[output]}:  # a part of one channel becomes wider
            return False
        scale, shift = np.ones(sum(sizes)), np.zeros(sum(sizes))
        part = slice(sum(sizes[:output]), sum(sizes[: output + 1]))
        scale[part], shift[part] = affine.scale, affine.shift
        whole = node.inputs[0]
        folded = fuser.fold(Affine(whole, scale, shift, affine.axis))
        if folded:
            fuser.rename(whole)
        return folded

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        """A permutation within one part is one of the whole."""
        sizes = [size_of(t, axis) for t in node.outputs]
        known = [size for size in sizes if size is not None]
        along = bool(shape_of(node.inputs[0])) and axis_attribute(node) == axis
        if not along or len(known) < len(sizes) or sizes[output] != order.size:
            return None
        start = sum(known[:output])
        whole = np.arange(sum(known))
        whole[start : start + order.size] = start + order
        return orders.written(node.inputs[0], axis, whole)

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        """Along the other axes all parts store the same, as they come from one input."""
        result = super().storable_outputs(node, facts, asked)
        return stored_alike(result, {a for _, a in result if a != axis_attribute(node)}, len(node.outputs))

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        axis = axis_attribute(rewriter.before)
        counts = [rewriter.stored_count(t, axis) for t in node.outputs if rewriter.shape(t)]
        whole = all(rewriter.is_whole(t, axis) for t in node.outputs)
        if whole or len(counts) < len(node.outputs) or None in counts:
            return
        # a part that was empty from the start is still read
        kept = [i for i, t in enumerate(node.outputs) if counts[i] or rewriter.is_whole(t, axis)]
        node.outputs = [node.outputs[i] for i in kept]
        sizes = [counts[i] for i in kept]
        node.inputs, node.attrs = rewriter.editor.form("Split", node.inputs[:1], {"axis": axis, "split": sizes})
