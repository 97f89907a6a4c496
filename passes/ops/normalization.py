"""Normalisation over axes: statistics over all channels, also over those that are constants and not there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons, linear_dependence
from passes.abstract_values.shape_rules import ReadRule, Shape
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Dependences, Maps, Sets, merge
from passes.graph.tensors import Array, Dim, Mask, is_constant, numpy_dtype, operand, present, shape_of, volume
from passes.ops.base import UNKNOWN, Op, axis_attribute, register
from passes.ops.movement import maps_by_slices
from passes.ops.normalization_moments import Absent, NarrowedNormalization
from passes.ops.softmax_like import AlongAxes
from passes.ops.traits import DependenceTransfer
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter


class AlongChannels(AlongAxes):
    """Along an axis of channels, of which those that are known constants need not be there."""

    def channels(self, node: gs.Node, facts: Facts) -> tuple[int, ConstantSlices] | None:
        """The axis of the channels and its constants, where it pays to leave those out."""
        raise NotImplementedError

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        result = super().storable_outputs(node, facts, asked)
        found = self.channels(node, facts)
        if found is not None and (0, found[0]) in asked:
            result[0, found[0]] = asked[0, found[0]]
        return result

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        found = self.channels(rewriter.before, rewriter.facts)
        if found is None:
            return
        axis, known = found
        required, out = rewriter.required(node, 0, axis), rewriter.stored(rewriter.before.outputs[0], axis)
        whole = np.ones(known.mask.size, bool)
        required, out = whole if required is None else required, whole if out is None else out
        if not (required.all() and out.all()):
            self.lower_narrowed(NarrowedNormalization(node, rewriter, axis, known, required, out))

    def lower_narrowed(self, at: NarrowedNormalization) -> None:
        """Normalise what is required, with the constants that are not there in the statistics; write what is stored."""
        raise NotImplementedError


class Normalization(AlongChannels, DependenceTransfer):
    """Statistics over channels. Number, sum and sum of squares of constants that are not there are put into these.

    After the operator such channels are combinations of one or two quantities that all channels share, so that many of
    them linearly depend on one or two.
    """

    preserves = "nothing"

    def _factors(self, node: gs.Node, facts: Facts, size: int) -> tuple[Array, Array]:
        """Scale and bias: float64 [size] each."""
        bias = operand(node, 2)
        shift = np.zeros(size) if bias is None else facts.value(bias).astype(np.float64)
        return facts.value(node.inputs[1]).astype(np.float64), shift

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        found = self.channels(node, facts)
        if found is None:
            return
        axis, known = found
        scale, bias = self._factors(node, facts, known.mask.size)
        value = np.where(known.mask, known.value, 0).astype(np.float64)
        rows = self.rows(node, value, scale)
        dependence = linear_dependence.dependence(
            linear_dependence.Combination(known.mask, tuple(range(rows.shape[1])), rows, bias)
        )
        if dependence is not None:
            yield 0, axis, dependence

    def rows(self, node: gs.Node, value: Array, scale: Array) -> Array:
        """Normalised constants as combinations of what channels share: float64 [n, quantities]."""
        raise NotImplementedError


class NormalizationFromAxis(ReadRule, Normalization):
    """Statistics over the axes from `axis` on; the others pass through. Channels lie along the last axis alone."""

    scope = "example"

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        rank, scale = len(shape_of(node.inputs[0]) or ()), shape_of(node.inputs[1]) or ()
        if rank >= len(scale):
            yield 0, [*[None] * (rank - len(scale)), *(None if size == 1 else size for size in scale)]

    def form(self, node: gs.Node) -> Op:
        given = len(node.inputs) > 1 and all(t.name for t in node.inputs[:2])
        return self if given else UNKNOWN  # before the opsets that brought them nobody checks the form of these

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        if _several_outputs(node):
            return None
        vectors = [shape_of(t) or () for _, t in present(node.inputs[1:])]
        # before them a scale or bias may have axes, too, which only need to broadcast
        return {a for a in range(rank) if a >= axis_attribute(node, -1) or any(_varies(v, a - rank) for v in vectors)}

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        """Where the scale is zero there is only the bias: a mask after the operator may be in its weights."""
        rank = len(shape_of(node.inputs[0]) or ())
        if not rank or float(node.attrs.get("epsilon", np.float32(1e-5))) <= 0:
            return
        first = axis_attribute(node, -1)
        scale, bias = operand(node, 1), operand(node, 2)
        if scale is None or any(len(t.shape or ()) != rank - first for t in (scale, bias) if t is not None):
            return
        for axis in range(first, rank):
            zeros, size = facts.zero(scale, axis - first), facts.size(node.inputs[0], axis)
            shift = ConstantSlices(zeros, np.zeros(zeros.size)) if bias is None else facts.known(bias, axis - first)
            if shift is not None and zeros.size == shift.mask.size == size:
                yield 0, axis, ConstantSlices(zeros & shift.mask, shift.value)

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        rank = len(shape_of(node.inputs[0]) or ())
        if facts.links(node):
            yield from maps_by_slices(node, facts, self.whole_axes(node, facts, rank) or ())

    def channels(self, node: gs.Node, facts: Facts) -> tuple[int, ConstantSlices] | None:
        x, scale, bias = node.inputs[0], operand(node, 1), operand(node, 2)
        rank = len(shape_of(x) or ())
        if not rank or axis_attribute(node, -1) != rank - 1 or is_constant(x) or _several_outputs(node):
            return None
        axis, size = rank - 1, facts.size(x, rank - 1)
        vectors = [t for t in (scale, bias) if t is not None]
        if size is None or scale is None or any(not is_constant(t) or list(t.shape) != [size] for t in vectors):
            return None
        known = facts.constant_slices(x, axis)
        # the decomposed operator takes as long as reading a few channels more in the operator itself
        few = known.mask.all() or 8 * int(known.mask.sum()) < size
        return None if few else (axis, known)

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        found = self.channels(node, facts)
        if found is not None:
            axis, known = found
            out = stored.get((0, axis))
            need = ~known.mask | (np.True_ if out is None else out & ~self.appended(known))
            reason = kept_reasons.NORMALISED if out is None else kept_reasons.REPRESENTATIVE
            flops = self.cost(node)[0] / need.size
            demands[0, axis] = Demand(need, flexible=True, flops=flops, reason=reason)
        return demands

    def appended(self, known: ConstantSlices) -> Mask:
        """Which constants it puts behind what is there by itself, and may store what comes of them."""
        return np.zeros_like(known.mask)

    def lower_narrowed(self, at: NarrowedNormalization) -> None:
        if at.required.all():
            at.pick(list(at.node.inputs))
        else:
            self.lower_statistics(at)

    def lower_statistics(self, at: NarrowedNormalization) -> None:
        """As `lower_narrowed`, where some slices are not required."""
        raise NotImplementedError

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return self.flops_per_element * volume(node.outputs[0]), 0


def _varies(shape: Sequence[Dim], axis: int) -> bool:
    """Whether a tensor has several slices along an axis that is counted from the end."""
    return len(shape) >= -axis and shape[axis] != 1


def _several_outputs(node: gs.Node) -> bool:
    return len([t for t in node.outputs if not t.is_empty()]) > 1


@register("LayerNormalization")
class LayerNormalization(NormalizationFromAxis):
    """(x - mean) / sqrt(variance + epsilon) · scale + bias. Source: ONNX operator specification."""

    flops_per_element = 7  # mean, centring, variance (2), normalising, scale and bias

    def rows(self, node: gs.Node, value: Array, scale: Array) -> Array:
        return np.stack([scale * value, -scale], axis=1)

    def appended(self, known: ConstantSlices) -> Mask:
        return known.only(0).mask if not known.value[known.mask].any() else super().appended(known)

    def lower_statistics(self, at: NarrowedNormalization) -> None:
        """Zeros are put behind what is there, as kernels of the operator are faster than all of its steps."""
        n, axis = at.required.size, at.axis
        if not at.known.value[at.removed].any():
            at.pick_of_padded()
            return
        absent = Absent.among(at.known.value[None], at.removed[None])
        result = at.normalised(
            at.data, axis, absent, lambda centred: at.times(at.reduce("ReduceSumSquare", centred, axis), 1 / n)
        )
        at.finish(result, *self._factors(at.rewriter.before, at.rewriter.facts, n))


@register("RMSNormalization", "SimplifiedLayerNormalization")
class RMSNormalization(NormalizationFromAxis):
    """x / sqrt(mean of squares + epsilon) · scale. Source: ONNX operator specification."""

    flops_per_element = 5  # square, mean, root and quotient, scale

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        """Zero stays zero, too."""
        masked = {axis: known for _, axis, known in super().constants(node, facts)}
        found = self.channels(node, facts)
        if found is not None and float(node.attrs.get("epsilon", np.float32(1e-5))) > 0:
            axis, known = found
            zero = ConstantSlices(known.mask & (known.value == 0), np.zeros_like(known.value))
            masked[axis] = merge(zero, masked[axis]) if axis in masked else zero
        for axis, known in masked.items():
            yield 0, axis, known

    def rows(self, node: gs.Node, value: Array, scale: Array) -> Array:
        return (scale * value)[:, None]

    def lower_statistics(self, at: NarrowedNormalization) -> None:
        """Over k of n channels, the others zero: of x · sqrt(k / n) the mean of squares is that of all n, and scale ·
        sqrt(n / k) gives the same; epsilon, an attribute in single precision, stays as it is. Other constants add the
        sum of their squares.
        """
        removed, rewriter = at.known.value[at.removed].astype(np.float64), at.rewriter
        n, k = at.required.size, int(at.required.sum())
        scale, bias = self._factors(rewriter.before, rewriter.facts, n)
        if removed.any():
            squares = at.times(at.reduce("ReduceSumSquare", at.data, at.axis), 1 / n)
            variance = at.plus(squares, float((removed**2).sum()) / n + at.epsilon)
            at.finish(at.over_root(at.data, variance), scale, bias)
            return
        data = at.node.inputs[0]
        factors = (scale[at.required] * np.sqrt(n / k)).astype(rewriter.before.inputs[1].dtype)
        scale_of_required = rewriter.constant("scale", factors)
        share = rewriter.constant("share", np.asarray(np.sqrt(k / n), numpy_dtype(rewriter.before.inputs[0])))
        at.pick([rewriter.emit("Mul", [data, share], data), scale_of_required])


@register("LpNormalization")
class LpNormalization(AlongChannels):
    """Divided by the norm along one axis, to which zeros add nothing; zero where the norm is."""

    foldable = True
    preserves = "zeros"
    flops_per_element = 3  # square, add, divide

    def channels(self, node: gs.Node, facts: Facts) -> tuple[int, ConstantSlices] | None:
        x, axis = node.inputs[0], axis_attribute(node, -1)
        zeros = facts.constant_slices(x, axis).only(0)
        return (axis, zeros) if zeros.mask.any() and not is_constant(x) else None

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        if (found := self.channels(node, facts)) is not None:
            yield 0, *found

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        if (found := self.channels(node, facts)) is not None:
            axis, zeros = found
            need = ~zeros.mask | stored.get((0, axis), np.True_)
            flops = self.cost(node)[0] / need.size
            demands[0, axis] = Demand(need, flexible=True, flops=flops, reason=kept_reasons.NORMALISED, echo=(0, axis))
        return demands

    def lower_narrowed(self, at: NarrowedNormalization) -> None:
        at.pick(list(at.node.inputs))

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        """x / (Σ |x|ᵖ)^(1/p), zero where the norm is; the reference implementation forgets the sign of x for p = 1."""
        (values,) = operands
        p, axis = int(node.attrs.get("p", 2)), int(node.attrs.get("axis", -1))
        if values is None or not -values.ndim <= axis < values.ndim:
            return None
        norm = (np.abs(values.astype(np.float64)) ** p).sum(axis=axis, keepdims=True) ** (1 / p)
        return [np.asarray(values / np.where(norm == 0, 1, norm), values.dtype)]
