"""Elements picked or written at given indices.

Axes that the indices do not choose from pass through. Along those they choose from, constant indices say which slices
are read and written, and are renumbered when some are removed.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Link, Maps, Reads, Sets, merge
from passes.graph.construct import constant
from passes.graph.tensors import Array, Index, Mask, is_constant, numpy_dtype, product, shape_of, size_of, values_of
from passes.ops.base import axis_attribute, gathered, register
from passes.ops.movement import Movement, same_axis
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter


class Picking(Movement):
    """Elements of input 0 at the indices of input 1."""

    only_picks = True

    def chosen(self, node: gs.Node) -> list[tuple[int, Index]]:
        """Axes of the data that constant indices choose from, with the indices there, none of them negative."""
        axis = axis_attribute(node)
        index = settled(node.inputs[1], size_of(node.inputs[0], axis))
        return [] if index is None else [(axis, index)]

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return known if link.input == 0 else None

    def _used(self, node: gs.Node, facts: Facts) -> Reads:
        """Slices that are picked at all, along axes where nothing more is known."""
        linked = {k.input_axis for k in facts.links(node) if k.input == 0}
        for axis, index in self.chosen(node):
            size = facts.size(node.inputs[0], axis)
            if size is not None and axis not in linked:
                used = np.zeros(size, bool)
                used[index.reshape(-1)] = True
                yield 0, axis, used

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        yield from self._used(node, facts)

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        needs = {key: demand.need for key, demand in demands.items()}
        needs |= {(i, a): used for i, a, used in self._used(node, facts)}
        for axis, _ in self.chosen(node):  # new indices find the slices wherever they are
            if (0, axis) in needs:
                demands[0, axis] = Demand(needs[0, axis], flexible=True, reason=kept_reasons.READ)
        return demands


def settled(indices: gs.Tensor, size: int | None) -> Index | None:
    """Constant indices along an axis of this size, counted from its front; None for others or ones out of range."""
    if not is_constant(indices) or size is None:
        return None
    values = np.asarray(indices.values).astype(np.int64)
    if ((values < -size) | (values >= size)).any():
        return None
    return np.where(values < 0, values + size, values)


def _same_along(index: Index, axis: int) -> Index | None:
    """The index of each slice along the axis, if all elements of a slice have the same."""
    rows = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)
    return rows[:, 0] if rows.size and bool((rows == rows[:, :1]).all()) else None


@register("GatherElements")
class GatherElements(Picking):
    """One element of the data for each index, at the place of the index but along `axis`."""

    def contradiction(self, node: gs.Node) -> str:
        data, index = (shape_of(t) for t in node.inputs[:2])
        if data is None or index is None:
            return ""
        if len(data) != len(index):
            return f"its indices have {len(index)} axes, and its data {len(data)}"
        axis = axis_attribute(node)
        for a, (size, wanted) in enumerate(zip(data, index, strict=True)):
            if a != axis and isinstance(size, int) and isinstance(wanted, int) and wanted > size:
                return f"its indices have size {wanted} along axis {a}, and its data {size}"
        return ""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank, axis, found = len(shape_of(node.inputs[0]) or ()), axis_attribute(node), []
        for a in range(rank):
            picked, size = facts.size(node.inputs[1], a), facts.size(node.inputs[0], a)
            if picked is None or (size is None and a != axis) or facts.size(node.outputs[0], a) != picked:
                continue
            found.append(Link(1, a, 0, a))
            if a != axis:
                found.append(Link(0, a, 0, a, None if picked == size else np.arange(picked)))
        for a, index in self.chosen(node):
            rows = _same_along(index, a)
            if rows is not None:
                found.append(Link(0, a, 0, a, rows))
        return found

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        for axis, _ in self.chosen(rewriter.before):
            required = rewriter.required(node, 0, axis)
            index = settled(node.inputs[1], size_of(rewriter.before.inputs[0], axis))
            if required is not None and index is not None:
                rewriter.set_input(node, 1, rewriter.constant("indices", (np.cumsum(required) - 1)[index]))


def _components(node: gs.Node, first: int) -> list[Index] | None:
    """For indices that are tuples: the constant indices along each axis of the data from `first` on."""
    shape = shape_of(node.inputs[1])
    count = shape[-1] if shape else None
    if not isinstance(count, int) or not is_constant(node.inputs[1]):
        return None
    values = np.asarray(node.inputs[1].values)
    found = []
    for k in range(count):
        index = settled(constant("", values[..., k]), size_of(node.inputs[0], first + k))
        if index is None:
            return None
        found.append(index)
    return found


def _renumbered(node: gs.Node, rewriter: Rewriter, first: int) -> None:
    """Let tuples of constant indices count only the slices that are required of the data."""
    count = len(_components(rewriter.before, first) or ())
    masks = [rewriter.required(node, 0, first + k) for k in range(count)]
    if all(required is None for required in masks):
        return
    values = values_of(node.inputs[1]).astype(np.int64)
    for k, required in enumerate(masks):
        if required is not None:
            values[..., k] = (np.cumsum(required) - 1)[values[..., k]]
    rewriter.set_input(node, 1, rewriter.constant("indices", values))


@register("GatherND")
class GatherND(Picking):
    """A piece of the data for each tuple of indices; the axes after those pass through."""

    def chosen(self, node: gs.Node) -> list[tuple[int, Index]]:
        first = int(node.attrs.get("batch_dims", 0))
        return [(first + k, index) for k, index in enumerate(_components(node, first) or ())]

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        data, indices = shape_of(node.inputs[0]), shape_of(node.inputs[1])
        if data is None or not indices or not isinstance(indices[-1], int):
            return []
        batch, rank, count = int(node.attrs.get("batch_dims", 0)), len(indices), indices[-1]
        behind = [(a, a - batch - count + rank - 1) for a in range(batch + count, len(data))]
        found = same_axis(node, facts, [*((a, a) for a in range(batch)), *behind])
        linked = {link.input_axis for link in found}
        for a in range(rank - 1):
            size = facts.size(node.inputs[1], a)
            if size is not None and size == facts.size(node.outputs[0], a) and (a >= batch or a in linked):
                found.append(Link(1, a, 0, a))
        chosen = self.chosen(node)
        if batch == 0 and rank == 2 and len(chosen) == 1 and facts.size(node.outputs[0], 0) is not None:
            found.append(Link(0, 0, 0, 0, chosen[0][1]))
        return found

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        _renumbered(node, rewriter, int(rewriter.before.attrs.get("batch_dims", 0)))


class Scattering(Movement):
    """The data of input 0 with the updates of input 2 written, or added, at the indices of input 1."""

    reason = kept_reasons.EACH_BY_ITSELF

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        """Nothing is said: what is the same at all positions of the data may be written in some of them."""
        return iter(())

    def _replaces(self, node: gs.Node) -> bool:
        return str(node.attrs.get("reduction", "none")) == "none"

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        """Along axes that pass through: where data and updates agree."""
        links = facts.links(node)
        for data in [k for k in links if k.input == 0]:
            for updates in [k for k in links if k.input == 2 and k.output_axis == data.output_axis]:
                first, second = (facts.constant_slices(node.inputs[k.input], k.input_axis) for k in (data, updates))
                both = ConstantSlices(first.only(second.value).mask & second.mask, first.value)
                # where they are added: 0 + 0, 0 · 0, the larger of both
                yield 0, data.output_axis, both if self._replaces(node) else both.only(0)


@register("ScatterElements", "Scatter")
class ScatterElements(Scattering):
    """One element written for each index, at the place of the index, but along `axis`, which needs all channels."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank, axis, found = len(shape_of(node.inputs[0]) or ()), axis_attribute(node), []
        for a in range(rank):
            size = facts.size(node.outputs[0], a)
            if a != axis and size is not None and all(facts.size(t, a) == size for t in node.inputs):
                found += [Link(i, a, 0, a) for i in range(3)]
        return found


@register("ScatterND")
class ScatterND(Scattering):
    """A piece written for each tuple of indices; the axes after those pass through.

    Slices of the axes that the tuples choose from can be removed if the indices are a constant matrix, a tuple a row.
    """

    def contradiction(self, node: gs.Node) -> str:
        data, indices, updates = (shape_of(t) for t in node.inputs[:3])
        if data is None or updates is None or not indices or not isinstance(indices[-1], int):
            return ""
        wanted = [*indices[:-1], *data[indices[-1] :]]
        if len(wanted) != len(updates):
            return f"its updates have {len(updates)} axes, and its indices and data ask for {len(wanted)}"
        for axis, (size, given) in enumerate(zip(wanted, updates, strict=True)):
            if isinstance(size, int) and isinstance(given, int) and size != given:
                return f"its updates have size {given} along axis {axis}, and its indices and data ask for {size}"
        return ""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        data, indices = shape_of(node.inputs[0]), shape_of(node.inputs[1])
        if data is None or not indices or not isinstance(indices[-1], int):
            return []
        count, rank = indices[-1], len(indices)
        found = []
        for a in range(count, len(data)):
            size, at = facts.size(node.outputs[0], a), rank - 1 + a - count
            if size is not None and facts.size(node.inputs[0], a) == size == facts.size(node.inputs[2], at):
                found += [Link(0, a, 0, a), Link(2, at, 0, a)]
        return found

    def _tuples(self, node: gs.Node, facts: Facts) -> Array | None:
        """Indices one tuple a row [tuples, axes]; None unless they are constant and all sizes are static."""
        components = _components(node, 0)
        if not components or not components[0].size:
            return None
        if any(facts.size(node.outputs[0], a) != facts.size(node.inputs[0], a) for a in range(len(components))):
            return None
        return np.stack([c.reshape(-1) for c in components], axis=1)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        tuples = self._tuples(node, facts)
        if tuples is None:
            return
        rows = self._rows(node, facts)
        for axis in range(tuples.shape[1]):
            found = facts.constant_slices(node.inputs[0], axis)
            touched, written = self._overwritten(node, facts, tuples, axis)
            kept = ConstantSlices(found.mask & ~touched, found.value)
            if self._replaces(node):
                update = gathered(tuples[:, axis], rows, touched.size)
                both = touched & update.mask & (written | found.only(update.value).mask)
                kept = merge(kept, ConstantSlices(both, update.value))
            yield 0, axis, kept

    @staticmethod
    def _rows(node: gs.Node, facts: Facts) -> ConstantSlices:
        """What is known of the updates of each tuple."""
        updates = node.inputs[2]
        shape = shape_of(node.inputs[1]) or ()
        count = product(shape[:-1])
        known = None
        if is_constant(updates):
            rows = facts.value(updates).reshape(count, -1)
            known = facts.known(constant(f"{updates.name}/rows", rows), 0) if rows.size else None
        elif len(shape) == 2:
            known = facts.known(updates, 0)
        return ConstantSlices(np.zeros(count, bool), np.zeros(count, numpy_dtype(updates))) if known is None else known

    @staticmethod
    def _overwritten(node: gs.Node, facts: Facts, tuples: Array, axis: int) -> tuple[Mask, Mask]:
        """Slices along the axis that are written at all, and those of which nothing stays."""
        size = facts.size(node.inputs[0], axis) or 0
        sizes = [facts.size(node.inputs[0], a) or 0 for a in range(tuples.shape[1])]
        counts = np.bincount(np.unique(tuples, axis=0)[:, axis], minlength=size)
        return counts > 0, counts == np.prod(sizes) // max(size, 1)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        tuples = self._tuples(node, facts)
        if tuples is None:
            return
        for axis in range(tuples.shape[1]):
            live = facts.live(node.outputs[0], axis)
            _, written = self._overwritten(node, facts, tuples, axis)
            yield 0, axis, live & ~written if self._replaces(node) else live

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        result = super().storable_outputs(node, facts, asked)
        tuples = self._tuples(node, facts)
        if tuples is not None and len(shape_of(node.inputs[1]) or ()) == 2:
            result |= {key: mask for key, mask in asked.items() if key[1] < tuples.shape[1]}
        return result

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        tuples = self._tuples(node, facts)
        if tuples is None or len(shape_of(node.inputs[1]) or ()) != 2:
            return demands
        kept = np.ones(len(tuples), bool)
        for axis in range(tuples.shape[1]):
            if (0, axis) in stored:
                demands[0, axis] = Demand(stored[0, axis], reason=self.reason, echo=(0, axis))
                kept &= stored[0, axis][tuples[:, axis]]
        if not kept.all():
            demands[1, 0] = demands[2, 0] = Demand(kept, optional=True, reason=kept_reasons.EACH_BY_ITSELF)
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        left = rewriter.required(node, 2, 0)
        if left is not None and not left.any():
            rewriter.become(node, "Identity", node.inputs[:1])
            return
        if _components(rewriter.before, 0) is not None:
            _renumbered(node, rewriter, 0)


@register("Compress")
class Compress(Movement):
    """Slices of `axis` where a constant condition holds; without `axis`, or with a computed condition, others pass."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank, axis = len(shape_of(node.inputs[0]) or ()), axis_attribute(node)
        if "axis" not in node.attrs or not rank:
            return []
        found = same_axis(node, facts, [(a, a) for a in range(rank) if a != axis])
        size = facts.size(node.inputs[0], axis)
        if is_constant(node.inputs[1]) and size is not None:
            source = np.flatnonzero(facts.value(node.inputs[1])[:size])
            if source.size == facts.size(node.outputs[0], axis):
                found.append(Link(0, axis, 0, axis, source))
        return found

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        axis = axis_attribute(rewriter.before)
        if rewriter.required(node, 0, axis) is not None:  # what is required is what the condition would leave
            rewriter.become(node, "Identity", node.inputs[:1])


@register("OneHot")
class OneHot(Movement):
    """A new axis; those of the indices pass through."""

    preserves = "nothing"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.outputs[0]) or ())
        if not rank:
            return []
        new = int(node.attrs.get("axis", -1)) % rank
        return same_axis(node, facts, [(a, a + (a >= new)) for a in range(rank - 1)])
