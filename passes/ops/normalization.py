"""Normalisation over axes: statistics over all channels, also over those that are constants and not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes import ties
from passes.ops.base import Constants, Demand, Demands, Known, Link, Linked, Maps, Sets, Ties, register
from passes.ops.movement import same_axis
from passes.ops.slicewise import maps_by_slices
from passes.tensors import Array, Mask, is_constant, operand, shape_of, volume

if TYPE_CHECKING:
    from passes.facts import Facts
    from passes.rewrite import Rewriter


class Normalization(Linked):
    """Statistics over the axes from `axis` on; the others pass through.

    Where that is the last axis alone, channels of it that are known constants need not be there: their count, sum and
    sum of squares are put into the statistics. Behind the operator such channels are combinations of one or two
    quantities that all channels share, so that many of them follow from one or two.
    """

    foldable = True
    takes_constants = True
    reason = "normalises along another axis"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank or len([t for t in node.outputs if not t.is_empty()]) > 1:
            return []
        return same_axis(node, facts, [(a, a) for a in range(int(node.attrs.get("axis", -1)) % rank)])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return None

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        rank = len(shape_of(node.inputs[0]) or ())
        if facts.links(node):
            yield from maps_by_slices(node, facts, range(int(node.attrs.get("axis", -1)) % rank, rank))

    # -- the axis that is normalised over ----------------------------------------------------------------------------

    def channels(self, node: gs.Node, facts: Facts) -> tuple[int, Known] | None:
        """The one axis of the statistics and its constants, where it pays to leave those out."""
        x, scale, bias = node.inputs[0], operand(node, 1), operand(node, 2)
        rank = len(shape_of(x) or ())
        if not rank or int(node.attrs.get("axis", -1)) % rank != rank - 1 or is_constant(x):
            return None
        if len([t for t in node.outputs if not t.is_empty()]) > 1:
            return None
        axis, size = rank - 1, facts.size(x, rank - 1)
        vectors = [t for t in (scale, bias) if t is not None]
        if size is None or scale is None or any(not is_constant(t) or list(t.shape) != [size] for t in vectors):
            return None
        known = facts.known(x, axis)
        # the operator written out takes as long as reading a few channels more in the operator itself
        worth = known is not None and not known.mask.all() and 8 * int(known.mask.sum()) >= size
        return (axis, known) if worth and known is not None else None

    def _factors(self, node: gs.Node, facts: Facts, size: int) -> tuple[Array, Array]:
        """Scale and bias: float64 [size] each."""
        bias = operand(node, 2)
        shift = np.zeros(size) if bias is None else facts.value(bias).astype(np.float64)
        return facts.value(node.inputs[1]).astype(np.float64), shift

    def ties(self, node: gs.Node, facts: Facts) -> Ties:
        found = self.channels(node, facts)
        if found is None:
            return
        axis, known = found
        scale, bias = self._factors(node, facts, known.mask.size)
        value = np.where(known.mask, known.value, 0).astype(np.float64)
        rows = self.rows(value, scale)
        tied = ties.tied(ties.Combination(known.mask, tuple(range(rows.shape[1])), rows, bias))
        if tied is not None:
            yield 0, axis, tied

    def rows(self, value: Array, scale: Array) -> Array:
        """Normalised constants as combinations of what all channels share: float64 [n, quantities]."""
        raise NotImplementedError

    def produces(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        result = super().produces(node, facts, asked)
        found = self.channels(node, facts)
        if found is not None and (0, found[0]) in asked:
            result[0, found[0]] = asked[0, found[0]]
        return result

    def sees(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().sees(node, facts, stored)
        found = self.channels(node, facts)
        if found is not None:
            axis, known = found
            out = stored.get((0, axis))
            need = ~known.mask if out is None else ~known.mask | out
            reason = "normalises it, and one masked channel stands for all of them behind it"
            if out is None:
                need, reason = np.ones(known.mask.size, bool), "normalises it, and all its channels are read behind it"
            flops = self.cost(node)[0] / need.size
            demands[0, axis] = Demand(need, flexible=True, flops=flops, reason=reason)
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        found = self.channels(rewriter.before, rewriter.facts)
        if found is None:
            return
        axis, known = found
        whole = np.ones(known.mask.size, bool)
        seen, out = rewriter.seen(node, 0, axis), rewriter.stored(rewriter.before.outputs[0], axis)
        seen, out = whole if seen is None else seen, whole if out is None else out
        if seen.all():
            normalised = None if out.all() else rewriter.emit(node.op, list(node.inputs), node.inputs[0], **node.attrs)
            if normalised is not None:
                self._pick(node, rewriter, normalised, axis, seen, out)
            return
        self.lower_narrowed(node, rewriter, axis, known, seen, out)

    def lower_narrowed(self, node: gs.Node, rewriter: Rewriter, axis: int, known: Known, seen: Mask, out: Mask) -> None:
        """Normalise the slices `seen`, with the constants that are not among them in the statistics; write `out`."""
        raise NotImplementedError

    @staticmethod
    def _pick(node: gs.Node, rewriter: Rewriter, data: gs.Tensor, axis: int, seen: Mask, out: Mask) -> None:
        """Let the node write those of the slices `seen` that are stored."""
        places = rewriter.constant("channels", (np.cumsum(seen) - 1)[out])
        rewriter.become(node, "Gather", [data, places], axis=axis)


class _Statistics:
    """Writes a normalisation out, ahead of the node, in single precision at least."""

    def __init__(self, node: gs.Node, rewriter: Rewriter, axis: int, seen: Mask) -> None:
        self.node, self.rewriter, self.axis, self.seen = node, rewriter, axis, seen
        self.dtype = np.dtype(rewriter.before.inputs[0].dtype)
        self.narrow = self.dtype.itemsize < 4
        self.data = rewriter.cast(node.inputs[0], np.dtype(np.float32)) if self.narrow else node.inputs[0]

    def emit(self, op: str, *inputs: gs.Tensor, **attrs: object) -> gs.Tensor:
        return self.rewriter.emit(op, list(inputs), self.data, **attrs)

    def reduce(self, op: str, tensor: gs.Tensor) -> gs.Tensor:
        return self.rewriter.reduce(op, tensor, self.axis)

    def _number(self, value: float) -> gs.Constant:
        return self.rewriter.constant("statistic", np.asarray(value, self.data.dtype))

    def times(self, tensor: gs.Tensor, value: float) -> gs.Tensor:
        return self.emit("Mul", tensor, self._number(value))

    def plus(self, tensor: gs.Tensor, value: float) -> gs.Tensor:
        return self.emit("Add", tensor, self._number(value))

    def finish(self, centred: gs.Tensor, variance: gs.Tensor, out: Mask, scale: Array, bias: Array) -> None:
        """centred / sqrt(variance) · scale + bias, of the slices that are stored."""
        result = self.emit("Mul", centred, self.emit("Reciprocal", self.emit("Sqrt", variance)))
        if (self.seen != out).any():
            places = self.rewriter.constant("channels", (np.cumsum(self.seen) - 1)[out])
            result = self.emit("Gather", result, places, axis=self.axis)
        if self.narrow:
            result = self.rewriter.cast(result, self.dtype)
        factors = self.rewriter.constant("scale", scale[out].astype(self.dtype))
        if not bias[out].any():
            self.rewriter.become(self.node, "Mul", [result, factors])
            return
        scaled = self.rewriter.emit("Mul", [result, factors], result)
        self.rewriter.become(self.node, "Add", [scaled, self.rewriter.constant("bias", bias[out].astype(self.dtype))])


@register("LayerNormalization")
class LayerNormalization(Normalization):
    """(x - mean) / sqrt(variance + epsilon) · scale + bias. Source: ONNX operator specification."""

    def rows(self, value: Array, scale: Array) -> Array:
        return np.stack([scale * value, -scale], axis=1)

    def lower_narrowed(self, node: gs.Node, rewriter: Rewriter, axis: int, known: Known, seen: Mask, out: Mask) -> None:
        """With D constants c of n channels: mean = (sum of the others + sum c) / n; variance = (sum of the others'
        squared distances + D (mean - mean c)² + sum (c - mean c)²) / n.
        """
        gone = known.value[known.mask & ~seen].astype(np.float64)
        n, middle = seen.size, float(gone.mean())
        at = _Statistics(node, rewriter, axis, seen)
        mean = at.times(at.reduce("ReduceMean", at.data), float(seen.sum()) / n)
        if gone.any():
            mean = at.plus(mean, float(gone.sum()) / n)
        centred = at.emit("Sub", at.data, mean)
        squares = at.times(at.reduce("ReduceSumSquare", centred), 1 / n)
        apart = at.plus(mean, -middle) if middle else mean
        variance = at.emit("Add", squares, at.times(at.emit("Mul", apart, apart), gone.size / n))
        rest = float(((gone - middle) ** 2).sum()) / n + float(node.attrs.get("epsilon", np.float32(1e-5)))
        at.finish(centred, at.plus(variance, rest), out, *self._factors(rewriter.before, rewriter.facts, n))

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Mean, centring, variance (2), normalising, scale and bias: seven per element."""
        return 7 * volume(node.outputs[0]), 0


@register("RMSNormalization", "SimplifiedLayerNormalization")
class RMSNormalization(Normalization):
    """x / sqrt(mean of squares + epsilon) · scale. Source: ONNX operator specification."""

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        found = self.channels(node, facts)
        if found is not None and float(node.attrs.get("epsilon", 1e-5)) > 0:
            axis, known = found
            yield 0, axis, Known(known.mask & (known.value == 0), np.zeros_like(known.value))

    def rows(self, value: Array, scale: Array) -> Array:
        return (scale * value)[:, None]

    def lower_narrowed(self, node: gs.Node, rewriter: Rewriter, axis: int, known: Known, seen: Mask, out: Mask) -> None:
        """Over k of n channels, the others zero: of x · sqrt(k / n) the mean of squares is that of all n, and scale ·
        sqrt(n / k) gives the same; epsilon, an attribute in single precision, stays as it is. Other constants add the
        sum of their squares.
        """
        gone = known.value[known.mask & ~seen].astype(np.float64)
        n, k = seen.size, int(seen.sum())
        scale, bias = self._factors(rewriter.before, rewriter.facts, n)
        epsilon = float(node.attrs.get("epsilon", np.float32(1e-5)))
        if gone.any():
            at = _Statistics(node, rewriter, axis, seen)
            squares = at.times(at.reduce("ReduceSumSquare", at.data), 1 / n)
            at.finish(at.data, at.plus(squares, float((gone**2).sum()) / n + epsilon), out, scale, bias)
            return
        factors = rewriter.constant("scale", (scale[seen] * np.sqrt(n / k)).astype(rewriter.before.inputs[1].dtype))
        share = rewriter.constant("share", np.asarray(np.sqrt(k / n), rewriter.before.inputs[0].dtype))
        inputs = [rewriter.emit("Mul", [node.inputs[0], share], node.inputs[0]), factors]
        if (seen == out).all():
            node.inputs = inputs
            return
        self._pick(node, rewriter, rewriter.emit(node.op, inputs, node.inputs[0], **node.attrs), axis, seen, out)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Square, mean, root and quotient, scale: five per element."""
        return 5 * volume(node.outputs[0]), 0


@register("LpNormalization")
class LpNormalization(Linked):
    """Norm along one axis."""

    foldable = True
    reason = "normalises along another axis"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank:
            return []
        axis = int(node.attrs.get("axis", -1)) % rank
        return same_axis(node, facts, [(a, a) for a in range(rank) if a != axis])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: Known) -> Known | None:
        return None

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        """x / (Σ |x|ᵖ)^(1/p), zero where the norm is; the reference implementation forgets the sign of x for p = 1."""
        (values,) = operands
        if values is None:
            return None
        p, axis = int(node.attrs.get("p", 2)), int(node.attrs.get("axis", -1))
        norm = (np.abs(values.astype(np.float64)) ** p).sum(axis=axis, keepdims=True) ** (1 / p)
        return [np.asarray(values / np.where(norm == 0, 1, norm), values.dtype)]

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Square, add, divide: three per element."""
        return 3 * volume(node.outputs[0]), 0
