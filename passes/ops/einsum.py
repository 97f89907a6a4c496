"""Sums of products over named axes: Einsum, and the matrix products whose operands are vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.slices import Constants, ConstantSlices, Couples, Demand, Demands, Reads, Sets
from passes.graph.tensors import Array, Dim, Mask, is_constant, numpy_dtype, product, shape_of, values_of, volume
from passes.ops.base import Op, register
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.rewriting.weight_scaling import Fuser

Terms = tuple[list[list[str]], list[str]]  # the letters of each operand's axes, and of the output's
Wanted = Callable[[int], Mask]  # slices along an axis of the output


@dataclass(frozen=True)
class Label:
    """A letter that can be narrowed: of one static size, and no more than once in each operand.

    `at` holds `(input, axis)` of the operands that have it; `out` is its axis of the output, None if it is summed over.
    """

    letter: str
    size: int
    at: tuple[tuple[int, int], ...]
    out: int | None


class SumOfProducts(Op):
    """Operands multiplied along the letters they share, and summed over those that the output does not have."""

    width_axis = -1
    foldable = True

    def terms(self, node: gs.Node) -> Terms | None:
        """What the axes are called, None where that cannot be said."""
        raise NotImplementedError

    def labels(self, node: gs.Node, facts: Facts) -> list[Label]:
        """The letters that can be narrowed."""
        terms = self.terms(node)
        if terms is None or all(is_constant(t) for t in node.inputs):
            return []
        inputs, output = terms
        found = []
        for letter in dict.fromkeys(letter for axes in inputs for letter in axes):
            sizes: dict[tuple[int, int], int | None] = {
                (i, a): facts.size(node.inputs[i], a)
                for i, axes in enumerate(inputs)
                for a, other in enumerate(axes)
                if other == letter
            }
            if None in sizes.values():
                continue
            size = max(s for s in sizes.values() if s is not None)
            at = tuple(place for place, s in sizes.items() if s == size)  # others are repeated along it
            once = len({i for i, _ in sizes}) == len(sizes)
            out = output.index(letter) if letter in output else None
            if out is not None and facts.size(node.outputs[0], out) != size:
                continue
            if once and (set(sizes.values()) <= {1, size}) and (out is None or len(at) == len(sizes) or size > 1):
                found.append(Label(letter, size, at, out))
        return found

    @staticmethod
    def _pair(node: gs.Node) -> tuple[int, int] | None:
        """The computed and the constant operand, None if there is not one of each."""
        fixed = [is_constant(t) for t in node.inputs]
        return (fixed.index(False), fixed.index(True)) if sorted(fixed) == [False, True] else None

    def _times(self, node: gs.Node, data: int) -> int | None:
        """How many elements of the data are summed for one weight: letters that the data alone has and the output not.

        None if that is not static, or if an operand is repeated along a letter that is summed over.
        """
        inputs, output = self.terms(node) or ([], [])
        shape = shape_of(node.inputs[data]) or ()
        others: dict[str, Dim] = {}
        for index, axes in enumerate(inputs):
            if index != data:
                others |= dict(zip(axes, shape_of(node.inputs[index]) or (), strict=True))
        own = dict(zip(inputs[data], shape, strict=True))
        if any(letter not in output and others[letter] != own[letter] for letter in own.keys() & others):
            return None
        alone = [d for letter, d in own.items() if letter not in {*others, *output}]
        return product(alone) if all(isinstance(d, int) for d in alone) else None

    def _inner(self, labels: list[Label], data: int, weight: int) -> list[Label]:
        """The letters summed over that both operands have."""
        return [k for k in labels if k.out is None and {i for i, _ in k.at} >= {data, weight}]

    def _known(self, node: gs.Node, facts: Facts, label: Label, data: int) -> ConstantSlices | None:
        """Constants of the data along the letter, as far as their sums can be computed."""
        known = facts.known(node.inputs[data], dict(label.at)[data])
        if known is None or self._times(node, data) is not None:
            return known
        return known.only(0)

    @staticmethod
    def _grid(inner: Sequence[Label], constants: Sequence[ConstantSlices | None]) -> tuple[Array, Mask]:
        """Constants of the data over all inner letters: their values, zero elsewhere, and where they are."""
        given, filled = np.zeros([k.size for k in inner]), np.zeros([k.size for k in inner], bool)
        for number, known in enumerate(constants):
            if known is not None:
                along = [-1 if n == number else 1 for n in range(len(inner))]
                given = np.where(known.mask.reshape(along), known.value.reshape(along), given)
                filled = filled | known.mask.reshape(along)
        return given, filled

    def _weighted(
        self, node: gs.Node, weight: int, w: Array, inner: Sequence[Label], given: Array
    ) -> tuple[Array, list[int]]:
        """Sum of `given` (float64, one axis for each inner letter) times the weights `w`, and its output axes."""
        inputs, output = self.terms(node) or ([], [])
        letters = inputs[weight]
        axes = [dict(k.at)[weight] for k in inner]
        summed = np.tensordot(w.astype(np.float64), given, axes=(axes, range(given.ndim))) if axes else w * given
        rest = [letter for a, letter in enumerate(letters) if a not in axes]
        alone = tuple(a for a, letter in enumerate(rest) if letter not in output)
        return np.asarray(summed.sum(axis=alone)), [output.index(letter) for letter in rest if letter in output]

    # -- forward -------------------------------------------------------------------------------------------------

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        labels = self.labels(node, facts)
        dtype = numpy_dtype(node.outputs[0])
        dead = {k: np.logical_or.reduce([facts.zero(node.inputs[i], a) for i, a in k.at]) for k in labels}
        nothing = any(k.out is None and dead[k].all() for k in labels)
        pair = self._pair(node)
        sums = self._sums(node, facts, labels, *pair) if pair is not None else {}
        for k in labels:
            if k.out is None:
                continue
            mask = np.ones(k.size, bool) if nothing else np.asarray(dead[k])
            value = np.zeros(k.size)
            if k.out in sums:
                known = sums[k.out]
                value = np.where(known.mask & ~mask, known.value, value)
                mask = mask | known.mask
            if mask.any():
                yield 0, k.out, ConstantSlices(mask, value.astype(dtype))

    def _sums(
        self, node: gs.Node, facts: Facts, labels: list[Label], data: int, weight: int
    ) -> dict[int, ConstantSlices]:
        """Along the output axes that only the weights have: slices that sum up nothing but constants."""
        free = [(k, k.out) for k in labels if k.out is not None and [i for i, _ in k.at] == [weight]]
        w = facts.value(node.inputs[weight])
        if not free or w.dtype.kind != "f":
            return {}
        inner = self._inner(labels, data, weight)
        given, filled = self._grid(inner, [self._known(node, facts, k, data) for k in inner])
        axes = [dict(k.at)[weight] for k in inner]
        aligned = np.transpose(~filled, np.argsort(axes)) if axes else ~filled  # axes as the weights have them
        unknown = (w != 0) & aligned.reshape([d if a in axes else 1 for a, d in enumerate(w.shape)])
        total, outs = self._weighted(node, weight, w, inner, given * (self._times(node, data) or 1))
        found = {}
        for k, out in free:
            axis = dict(k.at)[weight]
            moving = unknown.any(axis=tuple(a for a in range(w.ndim) if a != axis))
            rows = np.moveaxis(total, outs.index(out), 0).reshape(k.size, -1)
            found[out] = ConstantSlices(~moving & (rows == rows[:, :1]).all(axis=1), rows[:, 0])
        return found

    # -- backward ------------------------------------------------------------------------------------------------

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        labels = self.labels(node, facts)

        def live(axis: int) -> Mask:
            return facts.live(node.outputs[0], axis)

        for k in labels:
            need = live(k.out) if k.out is not None else self._summed(node, facts, labels, k, live)
            for index, axis in k.at:
                yield index, axis, need

    def _summed(self, node: gs.Node, facts: Facts, labels: list[Label], label: Label, wanted: Wanted) -> Mask:
        """Slices along a letter summed over that no operand is zero at, as far as the wanted output depends on them."""
        need = ~np.logical_or.reduce([facts.zero(node.inputs[i], a) for i, a in label.at])
        for index, axis in label.at:
            if is_constant(node.inputs[index]):
                for k in labels:
                    at = dict(k.at)
                    if k.out is not None and index in at:
                        need = need & facts.nonzero(node.inputs[index], (axis, at[index])).rows(wanted(k.out))
        return np.asarray(need)

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        outs = {k.out for k in self.labels(node, facts)}
        return {key: mask for key, mask in asked.items() if key[1] in outs}

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands: Demands = {}
        labels = self.labels(node, facts)
        pair = self._pair(node)

        def wanted(axis: int) -> Mask:
            return stored.get((0, axis), np.ones(facts.size(node.outputs[0], axis) or 0, bool))

        for k in labels:
            computed = [(i, a) for i, a in k.at if not is_constant(node.inputs[i])]
            if k.out is not None:
                demand = Demand(wanted(k.out), reason=kept_reasons.EACH_BY_ITSELF)
            elif len(computed) > 1:
                need = self._summed(node, facts, labels, k, wanted)
                if not need.any():
                    need[0] = True  # the same slice of each
                demand = Demand(need, reason=kept_reasons.BOTH_COMPUTED)
            else:
                need = self._summed(node, facts, labels, k, wanted)
                if pair is not None and len(k.at) == 2:
                    known = self._known(node, facts, k, pair[0])
                    need = need if known is None else need & ~known.mask
                flops = 2.0 * volume(node.outputs[0])
                demand = Demand(need, flexible=True, flops=flops, reason=kept_reasons.READ)
            demands.update(dict.fromkeys(computed, demand))
        return demands

    # -- rewriting -----------------------------------------------------------------------------------------------

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        facts, before = rewriter.facts, rewriter.before
        labels = self.labels(before, facts)
        cuts: dict[int, dict[int, Mask | None]] = {}
        left: dict[str, Mask | None] = {}
        for k in labels:
            computed = [(i, a) for i, a in k.at if not is_constant(before.inputs[i])]
            if k.out is not None:
                left[k.letter] = rewriter.stored(before.outputs[0], k.out)
            elif computed:
                left[k.letter] = rewriter.required(node, *computed[0])
            for index, axis in k.at:
                cuts.setdefault(index, {})[axis] = left.get(k.letter)
        for index, tensor in enumerate(before.inputs):
            if is_constant(tensor):
                rewriter.set_input(node, index, rewriter.slice(tensor, cuts.get(index, {})))
        pair = self._pair(before)
        if pair is not None:
            self._absorb(node, rewriter, labels, left, *pair)

    def _absorb(
        self,
        node: gs.Node,
        rewriter: Rewriter,
        labels: list[Label],
        left: dict[str, Mask | None],
        data: int,
        weight: int,
    ) -> None:
        """Add what the constants that are no longer read contributed."""
        facts, before = rewriter.facts, rewriter.before
        inner = self._inner(labels, data, weight)
        removed: list[ConstantSlices | None] = []
        for k in inner:
            required, known = left.get(k.letter), self._known(before, facts, k, data)
            if required is not None and known is not None:
                known = ConstantSlices(~required, np.where(known.mask, known.value, 0))
            removed.append(None if required is None else known)
        given, _ = self._grid(inner, removed)
        if not given.any():
            return
        w = values_of(before.inputs[weight])
        for k in labels:
            stored, at = left.get(k.letter), dict(k.at)
            if k.out is not None and stored is not None and weight in at:
                w = np.take(w, np.flatnonzero(stored), axis=at[weight])
        total, outs = self._weighted(before, weight, w, inner, given * (self._times(before, data) or 1))
        if not total.any():
            return
        total = np.transpose(total, np.argsort(outs))
        rank = len(rewriter.shape(before.outputs[0]))
        sizes = iter(total.shape)
        shape = [next(sizes) if a in outs else 1 for a in range(rank)]
        rewriter.add_after(node, total.reshape(shape).astype(numpy_dtype(before.outputs[0])))

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """A scale along an axis that only the weights have; a shift has no place here."""
        terms = self.terms(node)
        if terms is None or self._pair(node) != (0, 1) or affine.shift.any() or affine.axis is None:
            return False
        letter = terms[1][len(terms[1]) - affine.axis]
        if letter in terms[0][0] or terms[0][1].count(letter) != 1:
            return False
        return fuser.into_weights(node, affine, terms[0][1].index(letter), affine.axis)

    # -- cost ----------------------------------------------------------------------------------------------------

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """For n operands `out (n k - 1)` FLOPs and `out (n - 1) k` MACs, with k terms in each sum."""
        terms = self.terms(node)
        if terms is None:
            return super().cost(node)
        sizes: dict[str, int] = {}
        for tensor, axes in zip(node.inputs, terms[0], strict=True):
            for letter, dim in zip(axes, shape_of(tensor) or (), strict=True):
                if isinstance(dim, int):
                    sizes[letter] = max(sizes.get(letter, 1), dim)
        k = int(np.prod([s for letter, s in sizes.items() if letter not in terms[1]], dtype=np.int64))
        out, n = volume(node.outputs[0]), len(node.inputs)
        return out * (n * k - 1), out * k * (n - 1)

    def couples(self, node: gs.Node, facts: Facts) -> Couples:
        """Letters that one computed operand shares with the output, or two of them that are summed over."""
        for label in self.labels(node, facts):
            axes = [(node.inputs[i], a) for i, a in label.at if not is_constant(node.inputs[i])]
            if label.out is None:
                yield from ((axes[0], other, None) for other in axes[1:])
            elif len(axes) == 1:  # of what all have, the batch or the heads, only a part may be read
                yield axes[0], (node.outputs[0], label.out), None

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        found = [p for k in self.labels(node, facts) if k.out == axis for p in k.at]
        return [(i, a) for i, a in found if not is_constant(node.inputs[i])]


@register("Einsum")
class Einsum(SumOfProducts):
    """Einstein's convention, with ellipsis; a letter that one operand has twice needs all channels.

    Source: ONNX operator specification, Einsum.
    """

    def contradiction(self, node: gs.Node) -> str:
        terms = str(node.attrs["equation"]).replace(" ", "").partition("->")[0].split(",")
        for term, tensor in zip(terms, node.inputs, strict=False):
            shape = shape_of(tensor)
            if shape is not None and "..." not in term and len(term) != len(shape):
                return f"its equation has {len(term)} axes for `{tensor.name}`, which has {len(shape)}"
        return ""

    def terms(self, node: gs.Node) -> Terms | None:
        left, _, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
        operands = left.split(",")
        ranks = [None if (shape := shape_of(t)) is None else len(shape) for t in node.inputs]
        if len(operands) != len(ranks) or None in ranks:
            return None
        hidden = [(rank or 0) - len(t.replace("...", "")) for t, rank in zip(operands, ranks, strict=True)]
        if any(n < 0 or (n and "..." not in t) for t, n in zip(operands, hidden, strict=True)):
            return None
        most = max(n for t, n in zip(operands, hidden, strict=True)) if hidden else 0
        if "->" not in str(node.attrs["equation"]):
            letters = left.replace(",", "").replace("...", "")
            right = "..." * ("..." in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        inputs = [_letters(t, n) for t, n in zip(operands, hidden, strict=True)]
        output = _letters(right, most)
        known = {letter for axes in inputs for letter in axes}
        rank = shape_of(node.outputs[0])
        if rank is None or len(rank) != len(output) or not set(output) <= known:
            return None
        return inputs, output


def _letters(term: str, hidden: int) -> list[str]:
    """The axes of a term; those after an ellipsis are numbered from their last."""
    before, dots, after = term.partition("...")
    return [*before, *(f".{hidden - 1 - i}" for i in range(hidden if dots else 0)), *after]


class VectorProduct(SumOfProducts):
    """numpy.matmul with a vector on one side or both."""

    def terms(self, node: gs.Node) -> Terms | None:
        shapes = [shape_of(t) for t in (*node.inputs[:2], node.outputs[0])]
        if any(shape is None for shape in shapes):
            return None
        a, b, _ = (len(shape or ()) for shape in shapes)
        batch = [f".{i}" for i in range(max(a, b) - 2)][::-1]
        left = ["k"] if a == 1 else [*batch, "m", "k"]
        right = ["k"] if b == 1 else [*batch, "k", "n"]
        return [left, right], [*batch, *(["m"] if a > 1 else []), *(["n"] if b > 1 else [])]
