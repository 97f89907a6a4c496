"""Rules of contractions: sums of products, whose weights take in what is constant in their data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf, prod

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import Absorbed, ConstantMap
from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.slices import (
    Constants,
    ConstantSlices,
    Couples,
    Demand,
    Demands,
    Dependences,
    Maps,
    Masks,
    Reads,
    Sets,
    merge,
)
from passes.graph.editor import Change, all_or_none
from passes.graph.tensors import (
    Array,
    Index,
    Mask,
    initializer,
    inverse,
    is_constant,
    is_float,
    numpy_dtype,
    operand,
    shape_of,
    size_of,
    values_of,
    volume,
)
from passes.ops.base import Op
from passes.ops.contractions.inner_constants import Varied, together, varied
from passes.ops.contractions.labels import WHOLE, Label, Projection, Terms, axes_of, computed_axes
from passes.ops.movement import maps_by_slices
from passes.ops.traits import CoupledAxes, DependenceTransfer, NaturalSlices, WeightedSum, WeightedSums, in_sums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering
from passes.rewriting.lower_ops import Rewriter
from passes.weights.quantized import is_dequantized
from passes.weights.statistics import Nonzero
from passes.weights.streaming import contracted, lazy

Wanted = Callable[[int], Mask]  # slices along an axis of the output
Left = dict[Label, Mask | None]  # slices that stay along a label, None if all do


class Contraction(Op, CoupledAxes, DependenceTransfer, NaturalSlices, Reordering, WeightedSums):
    """Factors multiplied along the letters they share, and summed over those that the output does not have."""

    width_axis: int | None = -1
    foldable = True
    #: why slices that are summed over are kept
    reason = kept_reasons.READ
    #: the operand that is added, None if there is none
    addend: int | None = None
    #: the standard operator that slides over the axes of the weights that stay whole; "" if there are none
    slides = ""

    def terms(self, node: gs.Node) -> Terms | None:
        """What the axes are called, None where that cannot be said."""
        raise NotImplementedError

    def scale(self, node: gs.Node) -> float:
        """A factor of the sums."""
        return 1.0

    def beside(self, node: gs.Node) -> Iterator[tuple[int, int, int]]:
        """Operands that are no factors and lie along axes of the output: input, axis of the output, its own axis."""
        return iter(())

    def is_batch(self, node: gs.Node, axis: int) -> bool:
        """Whether the output has a product of its own at each index along the axis."""
        return False

    def labels(self, node: gs.Node, facts: Facts) -> list[Label]:
        """The letters whose axes can be cut."""
        terms = self.terms(node)
        if terms is None or all(is_constant(t) for t in node.inputs[: len(terms.factors)]):
            return []
        places: dict[str, list[tuple[int, int]]] = {}
        for index, letters in enumerate(terms.factors):
            for axis, letter in enumerate(letters):
                places.setdefault(letter, []).append((index, axis))
        labels = []
        for letter, at in places.items():
            sizes = [facts.size(node.inputs[i], a) for i, a in at]
            out = terms.output.index(letter) if letter in terms.output else None
            size = max(s or 0 for s in sizes) if out is None else facts.size(node.outputs[0], out)
            once = len({i for i, _ in at}) == len(at)
            if letter != WHOLE and once and size is not None and size in sizes and {*sizes} <= {1, size}:
                labels.append(Label(size, tuple(p for p, s in zip(at, sizes, strict=True) if s == size), out))
        return labels

    def projection(self, node: gs.Node, labels: Sequence[Label]) -> Projection | None:
        """The node as a product with weights; None if its factors are not one that is computed and one that is not."""
        terms = self.terms(node)
        if terms is None or len(terms.factors) != 2 or is_constant(node.inputs[0]) == is_constant(node.inputs[1]):
            return None
        data, weights = (1, 0) if is_constant(node.inputs[0]) else (0, 1)
        once = len({*terms.factors[weights]}) == len(terms.factors[weights])
        return Projection(data, weights, labels, terms) if once else None

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        """One, if each axis of both is the output's, or is summed with one of the other, or is a window's."""
        projection, scale = self.projection(node, ()), self.scale(node)
        if projection is None or not scale:
            return
        weights, output = initializer(node, projection.weights), projection.terms.output
        data, own = (projection.terms.factors[i] for i in (projection.data, projection.weights))
        read, sizes = node.inputs[projection.data], dict(zip(own, weights.shape, strict=True))
        both = [k for k in own if k in data and k != WHOLE]
        summed = [k for k in both if k not in output]
        groups = [k for k in both if k in output and sizes[k] != 1]
        alone = {*data, *own} - {*both, *output}
        once = all(data.count(k) == 1 for k in both)
        if not (summed and once) or alone or any(size_of(read, data.index(k)) != sizes[k] for k in groups):
            return
        kinds = {WHOLE: "k", **dict.fromkeys(groups, "g"), **dict.fromkeys(summed, "k"), summed[0]: "c"}
        axes = tuple(data.index(k) for k in both if k in kinds)
        outs = [output.index(k) for k in [*groups, *(k for k in own if k not in kinds)]]
        yield WeightedSum(
            read,
            axes,
            weights,
            "".join(kinds.get(k, "o") for k in own),
            prod(sizes[k] for k in groups),
            self.addend,
            tuple(sizes.get(k, 1) for k in output[min(outs, default=len(output)) :]) if outs == sorted(outs) else None,
            self.slides,
            scale,
        )

    def zeros(self, node: gs.Node, facts: Facts, index: int, axis: int) -> Mask:
        """Slices of a factor that add nothing to any sum."""
        return facts.zero(node.inputs[index], axis)

    def nonzero(self, node: gs.Node, facts: Facts, index: int, axes: tuple[int, int]) -> Nonzero:
        """Where an initializer adds anything to a sum, over the indices along two of its axes."""
        return facts.nonzero(node.inputs[index], axes)

    def absorbed(self, node: gs.Node, facts: Facts, projection: Projection, label: Label) -> ConstantSlices:
        """Constants of the data along an inner label whose share of the sums can be computed."""
        known = facts.constant_slices(node.inputs[projection.data], projection.axis(label, projection.data))
        return known if projection.repeats(node) is not None else known.only(0)

    def dependence(self, node: gs.Node, facts: Facts, projection: Projection) -> LinearDependence | None:
        """Slices of the data for which weights of their representatives can stand."""
        if not projection.is_matrix or is_dequantized(node.inputs[projection.weights]):
            return None
        (label,) = projection.inner
        return facts.combinations(node.inputs[projection.data], projection.axis(label, projection.data))

    def uneven(self, node: gs.Node, facts: Facts, projection: Projection) -> ConstantMap | None:
        """Slices of the data that are constant maps over their other axes, which are those of the output, too."""
        if not projection.is_matrix:
            return None
        (label,) = projection.inner
        maps = facts.constant_map.get(node.inputs[projection.data].name, {})
        return maps.get(projection.axis(label, projection.data))

    def _sum(self, node: gs.Node, projection: Projection, values: Array) -> tuple[Array, list[int]]:
        """Sums over the inner labels of `values` (float64, flattened) times the weights, and their output axes."""
        weights, axes = node.inputs[projection.weights], projection.inner_axes
        letters, output = projection.terms.factors[projection.weights], projection.terms.output
        stored = lazy(weights)
        if len(axes) == 1 and stored is not None:
            total = contracted(stored, axes[0], values[:, None])[0]
        else:
            rows = np.moveaxis(values_of(weights), axes, range(len(axes)))
            rows, used = rows.reshape(values.size, *rows.shape[len(axes) :]), np.flatnonzero(values)
            total = np.tensordot(values[used], rows[used].astype(np.float64), axes=(0, 0))
        rest = [letter for a, letter in enumerate(letters) if a not in axes]
        total = total.sum(axis=tuple(a for a, letter in enumerate(rest) if letter not in output))
        outs = [output.index(letter) for letter in rest if letter in output]
        return self.scale(node) * (projection.repeats(node) or 1) * np.transpose(total, np.argsort(outs)), sorted(outs)

    def _sum_of_maps(self, node: gs.Node, projection: Projection, maps: ConstantMap, slices: Mask) -> Array:
        """What these slices of the data add to the output: float64 [kept, others...]."""
        weights = np.moveaxis(values_of(node.inputs[projection.weights]), projection.inner_axes, [0])
        rows = weights[slices].astype(np.float64)
        return self.scale(node) * np.tensordot(rows, maps.value[slices].astype(np.float64), axes=(0, 0))

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        """Of computed numbers that are not negative, as attention without a Softmax sums them."""
        return 0.0 if self._negative(node, facts) == [] else -inf

    def natural(self, node: gs.Node, facts: Facts) -> Masks:
        """Along axes of one factor, where the others are not negative."""
        negative = self._negative(node, facts)
        for k in self.labels(node, facts) if negative and len(negative) == 1 else ():
            if k.out is not None and [i for i, _ in k.at] == negative:
                yield 0, k.out, facts.not_negative(node.inputs[negative[0]], k.at[0][1])

    def _negative(self, node: gs.Node, facts: Facts) -> list[int] | None:
        """The factors that may be negative; None where they are not all computed floats, or something is added."""
        plain = self.scale(node) >= 0 and not next(self.beside(node), None)
        computed = plain and all(is_float(t) and not is_constant(t) for t in node.inputs)
        return [i for i, t in enumerate(node.inputs) if facts.lowest(t) < 0] if computed else None

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        labels = self.labels(node, facts)
        dead = {k: np.logical_or.reduce([self.zeros(node, facts, i, a) for i, a in k.at]) for k in labels}
        nothing = any(k.out is None and dead[k].all() for k in labels)
        projection = self.projection(node, labels)
        sums = {} if projection is None or not projection.inner else self._sums(node, facts, projection)
        for k in labels:
            if k.out is None:
                continue
            zero = np.ones(k.size, bool) if nothing and not self.is_batch(node, k.out) else dead[k]
            known = ConstantSlices(zero, np.zeros(k.size))
            more = sums[k.out] if k.out in sums else self._mean(node, facts, k)
            known = known if more is None else merge(known, more)
            whole = self.with_operands_beside(node, facts, k.out, known)
            if whole.mask.any():
                yield 0, k.out, ConstantSlices(whole.mask, whole.value.astype(numpy_dtype(node.outputs[0])))

    def _sums(self, node: gs.Node, facts: Facts, projection: Projection) -> dict[int, ConstantSlices]:
        """Along the output axes that only the weights have: slices that sum up nothing but constants."""
        found: dict[int, ConstantSlices] = {}
        absorbed = [self.absorbed(node, facts, projection, k) for k in projection.inner]
        known = together(absorbed, [varied(node, facts, projection, k) for k in projection.inner])
        for out, label in projection.kept.items():
            mask, value = self._untouched(node, facts, projection, label, ~known.mask), np.zeros(label.size)
            if mask.any() and known.value.any():
                total, outs = self._sum(node, projection, known.value)
                rows = np.moveaxis(total, outs.index(out), 0).reshape(label.size, -1)
                mask, value = mask & (rows == rows[:, :1]).all(axis=1), rows[:, 0]
            found[out] = ConstantSlices(mask, value)
        return found

    def _untouched(self, node: gs.Node, facts: Facts, projection: Projection, kept: Label, slices: Mask) -> Mask:
        """Slices of the output that none of these of the data, over all inner labels, have a weight in."""
        axes, axis = projection.inner_axes, projection.axis(kept, projection.weights)
        if len(axes) == 1:
            return ~self.nonzero(node, facts, projection.weights, (axes[0], axis)).columns(slices)
        weights = np.moveaxis(facts.value(node.inputs[projection.weights]), [*axes, axis], [*range(len(axes)), -1])
        touched = weights.reshape(slices.size, -1, kept.size)[slices] != 0
        return np.asarray(~touched.any(axis=(0, 1)))

    def _mean(self, node: gs.Node, facts: Facts, label: Label) -> ConstantSlices | None:
        """Constants along a label of one factor alone, of which the other one takes a mean."""
        terms = self.terms(node)
        if terms is None or len(terms.factors) != 2 or len(label.at) > 1 or self.scale(node) != 1:
            return None
        ((index, axis),) = label.at
        own, others = ([k for k in terms.factors[i] if k not in terms.output] for i in (index, 1 - index))
        if len(others) != 1 or own != others:
            return None
        places = [(node.inputs[i], terms.factors[i].index(others[0])) for i in (1 - index, index)]
        mean = facts.sums_to_one(*places[0]) and len({facts.size(*place) == 1 for place in places}) == 1
        return facts.known(node.inputs[index], axis) if mean else None

    def with_operands_beside(self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices) -> ConstantSlices:
        """Constants along an axis of the output, given those of the sums."""
        return sums

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        projection = self.projection(node, ())
        if projection is not None and (changed := projection.changed) is not None:
            yield from maps_by_slices(node, facts, changed, projection.data)
        uneven = any(t.name in facts.constant_map for t in node.inputs)
        projection = self.projection(node, self.labels(node, facts)) if uneven else None
        if projection is None or next(self.beside(node), None) or self.uneven(node, facts, projection) is None:
            return
        known = facts.maps(node.inputs[projection.data], projection.axis(projection.inner[0], projection.data))
        if known is None:
            return
        for out, label in projection.kept.items():
            mask = self._untouched(node, facts, projection, label, ~known.mask)
            value = self._sum_of_maps(node, projection, known, known.mask)
            yield 0, out, ConstantMap(mask, value.astype(numpy_dtype(node.outputs[0])), known.index)

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        """Along axes that one factor alone has, all slices of it are weighted alike."""
        labels = [] if next(self.beside(node), None) else self.labels(node, facts)
        for index, axis, out in ((*k.at[0], k.out) for k in labels if k.out is not None and len(k.at) == 1):
            found = in_sums(facts, node.inputs[index], axis)
            if found is not None:
                yield 0, out, found

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        labels, live = self.labels(node, facts), partial(facts.live, node.outputs[0])
        for k in labels:
            if k.out is not None:
                yield from ((i, a, live(k.out)) for i, a in k.at)
                continue
            need, computed = self._met(node, facts, labels, k, live), computed_axes(node, k)
            dead = np.logical_or.reduce([self.zeros(node, facts, i, a) for i, a in computed])
            yield from ((i, a, need if computed == [(i, a)] else need & ~dead) for i, a in k.at)

    def _met(self, node: gs.Node, facts: Facts, labels: Sequence[Label], label: Label, wanted: Wanted) -> Mask:
        """Slices along a label summed over that initializers have weights for, towards what is wanted of the output."""
        need = np.ones(label.size, bool)
        for index, axis in label.at:
            if is_constant(node.inputs[index]):
                need = need & ~self.zeros(node, facts, index, axis)
                for k in labels:
                    if k.out is not None and index in (at := dict(k.at)):
                        need = need & self.nonzero(node, facts, index, (axis, at[index])).rows(wanted(k.out))
        return need

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        sizes = {(0, k.out): k.size for k in self.labels(node, facts) if k.out is not None}
        for index, out, axis in self.beside(node):
            if facts.size(node.inputs[index], axis) not in (1, sizes.get((0, out))):
                sizes.pop((0, out), None)
        return {key: mask for key, mask in asked.items() if key in sizes}

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands: Demands = {}
        labels = self.labels(node, facts)
        projection = self.projection(node, labels)

        def wanted(axis: int) -> Mask:
            return stored.get((0, axis), np.ones(facts.size(node.outputs[0], axis) or 0, bool))

        for k in labels:
            computed = computed_axes(node, k)
            if k.out is not None:
                demand = Demand(wanted(k.out), reason=kept_reasons.EACH_BY_ITSELF)
            else:
                dead = np.logical_or.reduce([self.zeros(node, facts, i, a) for i, a in computed])
                need = self._met(node, facts, labels, k, wanted) & ~dead
                if len(computed) > 1:
                    demand = Demand(need, reason=kept_reasons.BOTH_COMPUTED)
                else:
                    absorbing = projection is not None and k in projection.inner
                    need = self.spared(node, facts, projection, k, need) if projection and absorbing else need
                    demand = Demand(need, flexible=True, flops=self.flops_per_slice(node), reason=self.reason)
            demands.update(dict.fromkeys(computed, demand))
        for index, out, axis in self.beside(node):
            if (0, out) in stored and facts.size(node.inputs[index], axis) == facts.size(node.outputs[0], out):
                demands[index, axis] = Demand(stored[0, out], reason=kept_reasons.COMBINED, echo=(0, out))
        return demands

    def spared(self, node: gs.Node, facts: Facts, projection: Projection, label: Label, need: Mask) -> Mask:
        """Of the needed slices of the data, those that are not made up for by weights, a constant or a map."""
        need = need & ~self.absorbed(node, facts, projection, label).mask
        if (other := varied(node, facts, projection, label)) is not None:
            need = need & ~other.mask
        dependence, uneven = self.dependence(node, facts, projection), self.uneven(node, facts, projection)
        if uneven is not None and facts.adds_maps:
            read, outputs = uneven.mask & need, next((k.size for k in projection.kept.values()), 1)
            elements = facts.weights(node.inputs[projection.data], projection.axis(label, projection.data))
            pays = Absorbed(elements, outputs).pays(uneven.value[0].size, int(read.sum()), int((read | ~need).sum()))
            need = need & ~uneven.mask if pays else need
        return need if dependence is None else dependence.required(need)

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        before, left = rewriter.before, {}
        labels = self.labels(before, rewriter.facts)
        for k in labels:
            if k.out is not None:
                left[k] = rewriter.stored(before.outputs[0], k.out)
            elif computed := computed_axes(before, k):
                left[k] = rewriter.required(node, *computed[0])
        projection = self.projection(before, labels)
        for index in sorted({i for k in labels for i, _ in k.at}):
            tensor = before.inputs[index]
            if is_constant(tensor):
                cuts = {dict(k.at)[index]: left.get(k) for k in labels if index in dict(k.at)}
                if projection is not None and index == projection.weights:  # constant data are cut as well
                    tensor = self._with_representatives(rewriter, projection, left)
                rewriter.set_input(node, index, rewriter.slice(tensor, cuts))
        if projection is not None:
            self.add_removed(node, rewriter, projection, left)

    def _with_representatives(self, rewriter: Rewriter, projection: Projection, left: Left) -> gs.Constant:
        """The weights, of which those of dependent slices that are gone are added to those of representatives."""
        weights = initializer(rewriter.before, projection.weights)
        dependence = self.dependence(rewriter.before, rewriter.facts, projection)
        if dependence is None or not (gone := dependence.gone(left.get(projection.inner[0]))).any():
            return weights
        (axis,), stored = projection.inner_axes, lazy(weights)
        if stored is not None:
            return rewriter.constant(weights.name, dependence.folded_along(stored, axis, gone))
        folded = dependence.folded(np.moveaxis(rewriter.facts.value(weights), axis, 0), gone)
        return rewriter.constant(weights.name, np.moveaxis(folded, 0, axis))

    def add_removed(self, node: gs.Node, rewriter: Rewriter, projection: Projection, left: Left) -> None:
        """Add what slices of the data that are no longer read contributed."""
        facts, before = rewriter.facts, rewriter.before
        removed, differing = list[ConstantSlices](), list[Varied | None]()
        for k in projection.inner:
            required, known = left.get(k), self.absorbed(before, facts, projection, k)
            gone = np.zeros(k.size, bool) if required is None else ~required
            removed.append(ConstantSlices(known.mask & gone, known.value))
            other = varied(before, facts, projection, k)
            differing.append(None if other is None else other._replace(mask=other.mask & gone))
        values = together(removed, differing).value
        required = left.get(projection.inner[0]) if projection.inner else None
        dependence, uneven = self.dependence(before, facts, projection), self.uneven(before, facts, projection)
        folded = np.zeros(values.shape, bool)
        if dependence is not None:
            folded = dependence.gone(required)
            values = np.where(folded, dependence.shift, values)
        total, outs = self._sum(before, projection, values) if values.any() else (np.zeros(()), [])
        if uneven is not None and required is not None and (mapped := uneven.mask & ~required & ~folded).any():
            value = self._sum_of_maps(before, projection, uneven, mapped)
            value = value + total.reshape(-1, *[1] * len(uneven.index))
            (axis,) = projection.kept
            self._add_map(node, rewriter, axis, ConstantMap(np.ones(len(value), bool), value, uneven.index))
        elif total.any():
            for place, axis in enumerate(outs):
                stored = rewriter.stored(before.outputs[0], axis)
                total = total if stored is None else np.compress(stored, total, axis=place)
            self.add(node, rewriter, total, outs)

    @staticmethod
    def _add_map(node: gs.Node, rewriter: Rewriter, axis: int, added: ConstantMap) -> None:
        """Add maps of the slices along `axis` of the output, as far as they are stored."""
        y = rewriter.before.outputs[0]
        others = {a: rewriter.stored(y, a) for a in range(len(rewriter.shape(y)))}
        kept = others.pop(axis)
        value = (added.value if kept is None else added.value[kept]).astype(numpy_dtype(y))
        stored = ConstantMap(np.ones(len(value), bool), value, added.index).cut(axis, others)
        rewriter.add_after(node, rewriter.adapters.expand(stored, axis))

    def add(self, node: gs.Node, rewriter: Rewriter, total: Array, axes: list[int], first: int = 0) -> None:
        """Add sums (float64) along these axes of the output, as it is stored, with its axes from `first` on."""
        y = rewriter.before.outputs[0]
        sizes = dict(zip(axes, total.shape, strict=True))
        shape = [sizes.get(a, 1) for a in range(first, len(rewriter.shape(y)))]
        rewriter.add_after(node, total.reshape(shape).astype(numpy_dtype(y)))

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        terms = self.terms(node)
        places = [] if terms is None else axes_of(terms, terms.output[axis])
        if len(places) != 1:
            return None
        others = [(i, a) for i, out, a in self.beside(node) if out == axis and size_of(node.inputs[i], a) != 1]
        return all_or_none([orders.taken(node, i, a, order) for i, a in [*places, *others]])

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        terms = self.terms(node)
        if terms is None or index >= len(terms.factors) or terms.factors[index][axis] in terms.output:
            return None
        places = axes_of(terms, terms.factors[index][axis])
        others = [(i, a) for i, a in places if i != index]
        return orders.taken(node, *others[0], inverse(order)) if len(places) == 2 and len(others) == 1 else None

    def flops_per_slice(self, node: gs.Node) -> float:
        """What it costs to read one more slice of the data."""
        return 2.0 * volume(node.outputs[0])

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """For n factors `out (n k - 1)` FLOPs and `out (n - 1) k` MACs, with k terms in each sum; addends add `out`."""
        terms = self.terms(node)
        if terms is None:
            return super().cost(node)
        sizes: dict[str, int] = {}
        for tensor, letters in zip(node.inputs, terms.factors, strict=False):
            for letter, dim in zip(letters, shape_of(tensor) or (), strict=True):
                if isinstance(dim, int):
                    sizes[letter] = max(sizes.get(letter, 1), dim)
        k = prod(size for letter, size in sizes.items() if letter not in terms.output)
        out, n = volume(node.outputs[0]), len(terms.factors)
        added = out if operand(node, n) is not None else 0
        return out * max(n * k - 1, 0) + added, out * k * (n - 1)

    def couples(self, node: gs.Node, facts: Facts) -> Couples:
        """Labels that one computed factor shares with the output, or two of them that are summed over."""
        for label in self.labels(node, facts):
            axes = [(node.inputs[i], a) for i, a in computed_axes(node, label)]
            if label.out is None:
                yield from ((axes[0], other, None) for other in axes[1:])
            elif len(axes) == 1:  # of what all have, the batch or the heads, only a part may be read
                yield axes[0], (node.outputs[0], label.out), None

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        labels = [] if self.is_batch(node, axis) else self.labels(node, facts)
        return [place for k in labels if k.out == axis for place in computed_axes(node, k)]
