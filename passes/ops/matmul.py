"""Matrix products: sums over a shared axis, which fold whatever their inputs do not store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import Absorbed, ConstantMap
from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.slices import Constants, ConstantSlices, Couples, Demand, Demands, Maps, Reads, Sets
from passes.graph.editor import Change, all_or_none
from passes.graph.tensors import (
    Array,
    Index,
    Mask,
    inverse,
    is_constant,
    numpy_dtype,
    operand,
    product,
    rank_of,
    shape_of,
    size_of,
    values_of,
    volume,
)
from passes.ops.base import Op, register
from passes.ops.einsum import VectorProduct
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders
from passes.rewriting.lower_ops import Rewriter
from passes.rewriting.weight_scaling import Fuser
from passes.weights.quantized import Quantized
from passes.weights.streaming import contracted, lazy

Wanted = Callable[[gs.Tensor, int], Mask]  # slices along an axis of the output


@dataclass(frozen=True)
class Side:
    """One factor of a product, as the other side reads it.

    `free` is its axis that the output keeps (as `out`), `inner` the one that is summed over.
    """

    index: int
    free: int
    inner: int
    out: int


class MatrixProduct(Op):
    """Output = left · right (+ addend), batched over the leading axes."""

    width_axis = -1
    foldable = True

    def sides(self, node: gs.Node) -> tuple[Side, Side] | None:
        """Left and right factor, None if a factor is a vector or its rank is not known, or nothing is computed."""
        if all(is_constant(t) for t in node.inputs[:2]):
            return None
        ranks = [len(shape_of(t) or ()) for t in node.inputs[:2]]
        out = len(shape_of(node.outputs[0]) or ())
        if min(ranks) < 2 or out < 2:
            return None
        left_t, right_t = bool(node.attrs.get("transA", 0)), bool(node.attrs.get("transB", 0))
        a, b = ranks
        left = Side(0, a - 1 if left_t else a - 2, a - 2 if left_t else a - 1, out - 2)
        right = Side(1, b - 2 if right_t else b - 1, b - 1 if right_t else b - 2, out - 1)
        return left, right

    def addend(self, node: gs.Node) -> gs.Tensor | None:
        """The third operand of Gemm."""
        return operand(node, 2)

    def _facing(self, node: gs.Node) -> Iterator[tuple[Side, Side]]:
        """Both factors, each with the other one."""
        sides = self.sides(node)
        if sides is not None:
            yield sides
            yield sides[1], sides[0]

    # -- forward -------------------------------------------------------------------------------------------------

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        found: dict[int, ConstantSlices] = {}
        for data, weight in self._facing(node):
            known = self._known_along(node, facts, data, weight)
            if known is not None:
                found[weight.out] = known
        for axis, *aligned in self._batch(node, facts):
            dead = [facts.zero(node.inputs[i], a) for i, a in enumerate(aligned) if a is not None]
            if self.addend(node) is None and dead and np.logical_or.reduce(dead).any():
                mask = np.logical_or.reduce(dead)
                found[axis] = ConstantSlices(mask, np.zeros(mask.shape, numpy_dtype(node.outputs[0])))
        for axis, known in found.items():
            if known.mask.any():
                yield 0, axis, known

    def _known_along(self, node: gs.Node, facts: Facts, data: Side, weight: Side) -> ConstantSlices | None:
        """Constant slices along the free axis of `weight`."""
        x, w = node.inputs[data.index], node.inputs[weight.index]
        size, inner = facts.size(w, weight.free), facts.size(w, weight.inner)
        if size is None or facts.size(node.outputs[0], weight.out) != size:
            return None
        total = np.zeros(size)
        if is_constant(w) and inner is not None and facts.size(x, data.inner) == inner:
            known = facts.known(x, data.inner)
            unknown = np.ones(inner, bool) if known is None else ~known.mask
            nonzero = facts.nonzero(w, (weight.inner, weight.free))
            mask = ~nonzero.columns(unknown)
            if known is not None and mask.any():
                shift = known.mask & (known.value != 0)
                if len(shape_of(w) or ()) > 2:  # the weights differ along the batch: only zeros are uniform
                    mask &= ~nonzero.columns(shift)
                elif shift.any():
                    total = self.alpha(node) * self._shift(facts, w, weight, np.where(shift, known.value, 0))
        else:
            mask = facts.zero(w, weight.free)
            mean = facts.known(w, weight.free) if facts.sums_to_one(x, data.inner) and self.alpha(node) == 1 else None
            if mean is not None:
                mask, total = mean.mask, np.where(mean.mask, mean.value, 0).astype(np.float64)
            same = inner is not None and facts.size(x, data.inner) == inner
            if same and (facts.zero(x, data.inner) | facts.zero(w, weight.inner)).all():
                mask, total = np.ones(size, bool), np.zeros(size)
        return self._plus_addend(node, facts, weight.out, mask, total)

    def _plus_addend(self, node: gs.Node, facts: Facts, axis: int, mask: Mask, total: Array) -> ConstantSlices | None:
        dtype = numpy_dtype(node.outputs[0])
        c = self.addend(node)
        if c is None:
            return ConstantSlices(mask, total.astype(dtype))
        aligned = axis - (rank_of(node.outputs[0]) - len(c.shape or ()))
        if aligned >= 0 and facts.size(c, aligned) == mask.size:
            known = facts.known(c, aligned)
        else:
            value = facts.uniform(c)
            known = None if value is None else ConstantSlices(np.ones(mask.shape, bool), np.full(mask.shape, value))
        if known is None:
            return None
        return ConstantSlices(mask & known.mask, (total + self.beta(node) * known.value).astype(dtype))

    @staticmethod
    def _shift(facts: Facts, w: gs.Tensor, weight: Side, values: Array) -> Array:
        """Sum over the inner axis of `values` times the weights: float64 [free]."""
        stored = lazy(w)
        if stored is not None:
            return np.asarray(contracted(stored, weight.inner, values.astype(np.float64)[:, None])[0])
        used = np.flatnonzero(values)
        rows = np.take(facts.value(w), used, axis=weight.inner).astype(np.float64)
        return np.tensordot(values[used].astype(np.float64), rows, axes=(0, weight.inner))

    # -- backward ------------------------------------------------------------------------------------------------

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        for data, weight in self._facing(node):
            yield from self._needs(node, facts, data, weight, facts.live)
        for axis, *aligned in self._batch(node, facts):
            for index, a in enumerate(aligned):
                if a is not None:
                    yield index, a, facts.live(node.outputs[0], axis)

    def _needs(self, node: gs.Node, facts: Facts, data: Side, weight: Side, wanted: Wanted) -> Reads:
        """Slices of the data factor that the wanted output slices depend on, along its free and its inner axis."""
        x, w = node.inputs[data.index], node.inputs[weight.index]
        y = node.outputs[0]
        if facts.size(x, data.free) is not None and facts.size(x, data.free) == facts.size(y, data.out):
            yield data.index, data.free, wanted(y, data.out)
        inner = facts.size(x, data.inner)
        if inner is None or facts.size(w, weight.inner) != inner:
            return
        if is_constant(w):
            free = facts.size(w, weight.free) or 0
            columns = wanted(y, weight.out) if facts.size(y, weight.out) == free else np.ones(free, bool)
            yield data.index, data.inner, facts.nonzero(w, (weight.inner, weight.free)).rows(columns)
        else:
            yield data.index, data.inner, ~(facts.zero(w, weight.inner) | facts.zero(x, data.inner))

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        if self.sides(node) is None:
            return {}
        axes = {axis for axis, *_ in self._batch(node, facts)}
        axes |= {s.out for s in self.sides(node) or () if self._cuttable(node, facts, s)}
        c = self.addend(node)
        if c is not None:  # an addend of unknown size there cannot be cut with the product
            rank = len(shape_of(c) or ()) if shape_of(c) is not None else -1
            sizes = {a: facts.size(c, a - 2 + rank) if a - 2 + rank >= 0 else 1 for a in axes}
            axes = {a for a, s in sizes.items() if rank >= 0 and s in (1, facts.size(node.outputs[0], a))}
        return {key: mask for key, mask in asked.items() if key[1] in axes}

    def _cuttable(self, node: gs.Node, facts: Facts, side: Side) -> bool:
        size = facts.size(node.inputs[side.index], side.free)
        return size is not None and size == facts.size(node.outputs[0], side.out)

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands: Demands = {}
        y = node.outputs[0]

        def wanted(tensor: gs.Tensor, axis: int) -> Mask:
            return stored.get((0, axis), np.ones(facts.size(tensor, axis) or 0, bool))

        for data, weight in self._facing(node):
            x, w = node.inputs[data.index], node.inputs[weight.index]
            if is_constant(x):
                continue
            for index, axis, need in self._needs(node, facts, data, weight, wanted):
                if axis == data.free:
                    demands[index, axis] = Demand(need, reason=kept_reasons.EACH_BY_ITSELF)
                    continue
                if not is_constant(w):
                    demands[index, axis] = Demand(need, reason=kept_reasons.BOTH_COMPUTED)
                    continue
                known = facts.known(x, axis)
                if known is not None:
                    need = need & ~(known.only(0) if self._batched(w) else known).mask
                dependence = self._dependence(facts, x, axis, w)
                need = need if dependence is None else dependence.required(need)
                uneven = self._uneven(facts, x, axis, w)
                if uneven is not None and self._adds_map(node, facts, weight, x, axis, uneven, need):
                    need = need & ~uneven.mask
                reason = kept_reasons.READ
                demands[index, axis] = Demand(need, flexible=True, flops=2.0 * volume(y), reason=reason)
        for axis, *aligned in self._batch(node, facts):
            for index, a in enumerate(aligned):
                if a is not None and not is_constant(node.inputs[index]):
                    demands[index, a] = Demand(wanted(y, axis), reason=kept_reasons.EACH_BY_ITSELF)
        c = self.addend(node)
        if c is not None:
            for axis in range(2):
                aligned_axis = axis - (2 - len(c.shape or ()))
                if aligned_axis >= 0 and facts.size(c, aligned_axis) == facts.size(y, axis) and (0, axis) in stored:
                    demands[2, aligned_axis] = Demand(stored[0, axis], reason=kept_reasons.COMBINED, echo=(0, axis))
        return demands

    def _uneven(self, facts: Facts, x: gs.Tensor, axis: int, w: gs.Tensor) -> ConstantMap | None:
        """Slices along the inner axis that are constant maps over the other axes, which are those of the output too."""
        return None if self._batched(w) else facts.constant_map.get(x.name, {}).get(axis)

    def _adds_map(
        self, node: gs.Node, facts: Facts, weight: Side, x: gs.Tensor, axis: int, uneven: ConstantMap, need: Mask
    ) -> bool:
        """Whether one added map takes the place of the uneven slices that are needed."""
        if not facts.adds_maps:
            return False
        read = uneven.mask & need
        made_of = Absorbed(facts.weights(x, axis), facts.size(node.inputs[weight.index], weight.free) or 1)
        return made_of.pays(uneven.value[0].size, int(read.sum()), int((read | ~need).sum()))

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        for data, weight in self._facing(node):
            x, w = node.inputs[data.index], node.inputs[weight.index]
            if self.addend(node) is not None or not is_constant(w) or self._uneven(facts, x, data.inner, w) is None:
                continue
            known = facts.maps(x, data.inner)
            if known is not None:
                mask = ~facts.nonzero(w, (weight.inner, weight.free)).columns(~known.mask)
                value = self._product(facts, w, weight, known, known.mask)
                yield 0, weight.out, ConstantMap(mask, value.astype(numpy_dtype(node.outputs[0])), known.index)

    @staticmethod
    def _product(facts: Facts, w: gs.Tensor, weight: Side, known: ConstantMap, slices: Mask) -> Array:
        """What these slices add to the output: float64 [free, others...]."""
        rows = np.moveaxis(facts.value(w), weight.inner, 0)[slices].astype(np.float64)
        return np.tensordot(rows, known.value[slices].astype(np.float64), axes=(0, 0))

    def _dependence(self, facts: Facts, x: gs.Tensor, axis: int, w: gs.Tensor) -> LinearDependence | None:
        """Slices along the inner axis that weights of their representatives can stand for."""
        takes_others = not self._batched(w) and not isinstance(w, Quantized)
        return facts.dependence.get((x.name, axis)) if takes_others else None

    @staticmethod
    def _batched(w: gs.Tensor) -> bool:
        return len(shape_of(w) or ()) > 2

    def _batch(self, node: gs.Node, facts: Facts) -> Iterator[tuple[int, int | None, int | None]]:
        """Static batch axes of the output with the axes of either factor that run along them."""
        out = len(shape_of(node.outputs[0]) or ())
        if self.sides(node) is None:
            return
        for axis in range(out - 2):
            size = facts.size(node.outputs[0], axis)
            if size is None:
                continue
            own = [axis - (out - rank_of(t)) for t in node.inputs[:2]]
            sizes = [facts.size(t, a) if a >= 0 else 1 for t, a in zip(node.inputs[:2], own, strict=True)]
            if None not in sizes:
                left, right = (a if a >= 0 and s == size else None for a, s in zip(own, sizes, strict=True))
                yield axis, left, right

    # -- rewriting -----------------------------------------------------------------------------------------------

    def alpha(self, node: gs.Node) -> float:
        """Factor of the product (Gemm)."""
        return float(node.attrs.get("alpha", 1.0))

    def beta(self, node: gs.Node) -> float:
        """Factor of the addend (Gemm)."""
        return float(node.attrs.get("beta", 1.0))

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        facts, before = rewriter.facts, rewriter.before
        shift: dict[int, Array] = {}
        batch = list(self._batch(before, facts))
        for data, weight in self._facing(before):
            x, w = before.inputs[data.index], before.inputs[weight.index]
            if not is_constant(w):
                continue
            required = rewriter.required(node, data.index, data.inner)
            out = rewriter.stored(before.outputs[0], weight.out)
            cuts = {
                a: rewriter.stored(before.outputs[0], axis)
                for axis, *aligned in batch
                if (a := aligned[weight.index]) is not None
            }
            known, dependence = facts.known(x, data.inner), self._dependence(facts, x, data.inner, w)
            dependents = None if required is None or dependence is None else dependence.mask & ~required
            taken = w
            if dependence is not None and dependents is not None and dependents.any():
                stored = lazy(w)
                if stored is None:
                    along = np.moveaxis(facts.value(w), weight.inner, 0)
                    folded = np.moveaxis(dependence.folded(along, dependents), 0, weight.inner)
                    taken = rewriter.constant(w.name, folded)
                else:
                    taken = rewriter.constant(w.name, dependence.folded_along(stored, weight.inner, dependents))
            cut = rewriter.slice(taken, {**cuts, weight.inner: required, weight.free: out})
            rewriter.set_input(node, weight.index, cut)
            if required is None:
                continue
            offset = np.zeros(required.size) if known is None else np.where(known.mask & ~required, known.value, 0)
            if dependence is not None:
                offset = np.where(dependence.mask & ~required, dependence.shift, offset)
            total = self.alpha(before) * self._shift(facts, w, weight, offset) if offset.any() else np.zeros(1)
            uneven = self._uneven(facts, x, data.inner, w)
            if uneven is not None and (uneven.mask & ~required).any():
                value = self.alpha(before) * self._product(facts, w, weight, uneven, uneven.mask & ~required)
                value = value + total.reshape(-1, *[1] * len(uneven.index))
                self._add_map(node, rewriter, weight.out, ConstantMap(np.ones(len(value), bool), value, uneven.index))
            elif total.any():
                shift[weight.out] = total if out is None else total[out]
        for axis, total in shift.items():
            self._add(node, rewriter, axis, total)

    @staticmethod
    def _add_map(node: gs.Node, rewriter: Rewriter, axis: int, added: ConstantMap) -> None:
        """Add maps of the slices along `axis` of the output, as far as they are stored."""
        y = rewriter.before.outputs[0]
        others = {a: rewriter.stored(y, a) for a in range(len(rewriter.shape(y)))}
        kept = others.pop(axis)
        value = (added.value if kept is None else added.value[kept]).astype(numpy_dtype(y))
        stored = ConstantMap(np.ones(len(value), bool), value, added.index).cut(axis, others)
        rewriter.add_after(node, rewriter.expanded(stored, axis))

    def _add(self, node: gs.Node, rewriter: Rewriter, axis: int, total: Array) -> None:
        """Add a vector along `axis` of the output: into a constant addend, else by an Add after it."""
        rank = len(rewriter.shape(rewriter.before.outputs[0]))
        dtype = numpy_dtype(rewriter.before.outputs[0])
        vector = total.reshape([-1] + [1] * (rank - 1 - axis)) if axis < rank - 1 else total
        c = self.addend(node)
        if c is not None and is_constant(c):
            added = (self.beta(node) * values_of(c).astype(np.float64) + vector).astype(dtype)
            node.attrs["beta"] = 1.0
            rewriter.set_input(node, 2, rewriter.shifted(c, vector, added))
        else:
            rewriter.add_after(node, vector.astype(dtype))

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        for data, weight in self._facing(node):
            if weight.out == axis and not is_constant(node.inputs[data.index]):
                weights = orders.taken(node, weight.index, weight.free, order)
                return all_or_none([weights, *self._addend(node, axis, order, orders)])
        return None

    def _addend(self, node: gs.Node, axis: int, order: Index, orders: Orders) -> list[Change | None]:
        """What puts the third operand in order too, if it runs along that axis of the output."""
        c = self.addend(node)
        if c is None:
            return []
        shape = shape_of(c)
        along = None if shape is None else axis - (2 - len(shape))
        if shape is None or along is None:
            return [None]
        return [] if along < 0 or shape[along] == 1 else [orders.taken(node, 2, along, order)]

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        for data, weight in self._facing(node):
            if data.index == index and data.inner == axis and is_constant(node.inputs[weight.index]):
                return orders.taken(node, weight.index, weight.inner, inverse(order))
        return None

    # -- cost ----------------------------------------------------------------------------------------------------

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """`m n (2k - 1)`, and one more per output element for the addend."""
        out = volume(node.outputs[0])
        sides = self.sides(node)
        shape = shape_of(node.inputs[0])
        k = product([shape[sides[0].inner if sides else -1]] if shape else [])
        return out * max(2 * k - 1, 0) + (out if self.addend(node) is not None else 0), out * k

    def couples(self, node: gs.Node, facts: Facts) -> Couples:
        """Axes that the output keeps, and what is summed over where both factors are computed."""
        sides = [s for s in self.sides(node) or () if not is_constant(node.inputs[s.index])]
        for side in sides:
            yield (node.inputs[side.index], side.free), (node.outputs[0], side.out), None
        if len(sides) == 2:
            left, right = sides
            yield (node.inputs[left.index], left.inner), (node.inputs[right.index], right.inner), None

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [
            (s.index, s.free) for s in self.sides(node) or () if s.out == axis and not is_constant(node.inputs[s.index])
        ]


@register("MatMul")
class MatMul(MatrixProduct):
    """numpy.matmul."""

    _of_vectors = VectorProduct()

    def form(self, node: gs.Node) -> Op:
        for tensor in node.inputs:  # asked of each node again and again
            shape = tensor.shape
            if shape is not None and len(shape) == 1:
                return self._of_vectors
        return self

    def addend(self, node: gs.Node) -> gs.Tensor | None:
        return None

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """A scale of the columns; a shift has no place here."""
        matrix = len(shape_of(node.inputs[1]) or ()) == 2
        return matrix and not affine.shift.any() and fuser.into_weights(node, affine, 1, 1)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        """A scale of the rows; a shift has no place here."""
        matrix = index == 0 and len(shape_of(node.inputs[1]) or ()) == 2 and affine.axis in (None, 1)
        return fuser.from_inputs(node, affine, (1, 0)) if matrix and not affine.shift.any() else None


@register("Gemm")
class Gemm(MatrixProduct):
    """alpha · op(A) · op(B) + beta · C on matrices."""

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        bias, axis = self.addend(node), 0 if node.attrs.get("transB", 0) else 1
        columns = size_of(node.inputs[1], axis)
        wide = bias is None or (is_constant(bias) and prod(bias.shape) == columns)
        plain = self.alpha(node) == self.beta(node) == 1.0
        return plain and wide and fuser.into_weights(node, affine, axis, 1)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        bias, out = self.addend(node), 0 if node.attrs.get("transB", 0) else 1
        if index != 0 or affine.axis not in (None, 1) or node.attrs.get("transA", 0):
            return None
        if affine.shift.any():
            wide = bias is None or shape_of(bias) == (size_of(node.inputs[1], out),)
            if not wide or self.alpha(node) != 1 or self.beta(node) != 1:
                return None
        return fuser.from_inputs(node, affine, (out, 1 - out))
