"""Operators between numbers and the steps of a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Link, Reads, Sets
from passes.graph.tensors import (
    Array,
    Dim,
    Mask,
    initializer,
    is_constant,
    numpy_dtype,
    operand,
    product,
    rank_of,
    shape_of,
    volume,
)
from passes.ops.base import UNKNOWN, Op, register, rules
from passes.ops.batch_normalization import PerChannel
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.weights.quantized import Quantized
from passes.weights.statistics import Nonzero

# Operands of MatMulNBits that have a row, or as many elements as a row has blocks, for each column of the output.
_BY_ROW = (1, 2, 3, 5)


class Quantization(PerChannel):
    """Scale and zero point are scalars or vectors along `axis`; blocked scales of computed tensors are not understood.

    Source: ONNX operator specification, QuantizeLinear and DequantizeLinear.
    """

    def channel_axis(self, node: gs.Node) -> int:
        return int(node.attrs.get("axis", 1))

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        blocked = node.attrs.get("block_size", 0) or len(shape_of(node.inputs[1]) or ()) > 1
        return [] if blocked else super().links(node, facts)

    def contradiction(self, node: gs.Node) -> str:
        data = shape_of(node.inputs[0])
        for name, tensor in (("scale", operand(node, 1)), ("zero point", operand(node, 2))):
            shape = None if tensor is None else shape_of(tensor)
            if data is not None and shape is not None and not self._fits(node, data, shape):
                return f"its {name} has shape {list(shape)}, which does not fit data of shape {list(data)}"
        return ""

    def _fits(self, node: gs.Node, data: tuple[Dim, ...], shape: tuple[Dim, ...]) -> bool:
        axis, block = self.channel_axis(node), int(node.attrs.get("block_size", 0))
        if not all(isinstance(d, int) for d in shape) or (not block and shape in ((), (1,))):
            return True
        axis = axis + len(data) if axis < 0 else axis
        if axis >= len(data) or len(shape) != (len(data) if block else 1):
            return False
        wanted = list(data) if block else [data[axis]]
        size = data[axis]
        if block and isinstance(size, int):
            wanted[axis] = -(-size // block)
        return all(w == s for w, s in zip(wanted, shape, strict=True) if isinstance(w, int))


@register("QuantizeLinear")
class Quantize(Quantization):
    """To the nearest step, ties to the even one, within the range of the type."""

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        x, scale, zero = [*operands, None][:3]
        dtype = numpy_dtype(node.outputs[0])
        if x is None or scale is None or dtype.kind not in "iu" or x.dtype.kind not in "fi":
            return None
        limits = np.iinfo(dtype)
        with np.errstate(all="ignore"):
            steps = np.rint(x.astype(np.float32) / scale.astype(np.float32)).astype(np.float64)
        if not np.isfinite(steps).all():
            return None
        return np.clip(steps + (0.0 if zero is None else zero), limits.min, limits.max).astype(dtype)


@register("DequantizeLinear")
class Dequantize(Quantization):
    """Weights after it keep their few bits, and are read and sliced as the numbers that they stand for."""

    foldable = False

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        x, scale, zero = [*operands, None][:3]
        if x is None or scale is None or x.dtype.kind not in "iu":
            return None
        wide = x.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
        return np.asarray((wide.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype))

    def quantized(self, node: gs.Node) -> Quantized | None:
        """The output as a weight that keeps its few bits; None if it is none."""
        if self.contradiction(node):
            return None
        stored, scale, zero = (operand(node, i) for i in range(3))
        if stored is None or not _is_plain(stored) or scale is None or not _is_plain(scale):
            return None
        if not (zero is None or _is_plain(zero)):
            return None
        whole = stored.dtype == np.int32 or stored.dtype.name.lstrip("u") in _FEW_BITS
        typed = node.attrs.get("output_dtype", 0) == 0
        return Quantized(node.outputs[0].name, stored, scale, zero, node.attrs) if whole and typed else None


def _is_plain(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    return is_constant(tensor) and not isinstance(tensor, Quantized) and not isinstance(tensor.dtype, int)


_FEW_BITS = {"int2", "int4", "int8", "int16"}


@dataclass(frozen=True)
class Operands:
    """Positions of the inputs; `per_output` are those that may be vectors along the output's channels."""

    weight: int
    data_zero: int
    weight_zero: int
    output_zero: int | None = None
    bias: int | None = None
    per_output: tuple[int, ...] = ()


class IntegerProduct(Op):
    """Sums of (data - its zero point) · (weights - theirs): channels at the zero point add nothing.

    Other constants stay: nothing but an int32 bias could take them.
    Source: ONNX operator specification, MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv.
    """

    operands = Operands(1, 2, 3)
    #: axis of data and output that holds channels; axes of the weights that run along input and output channels
    channels, inner, free = -1, 0, 1

    def axis(self, node: gs.Node) -> int:
        """The axis of the output that holds channels."""
        return self.channels % max(len(shape_of(node.outputs[0]) or ()), 1)

    def is_understood(self, node: gs.Node, facts: Facts) -> bool:
        """Whether weights and what stands beside them are initializers, and the sizes fit together."""
        weight, data, axis = node.inputs[self.operands.weight], node.inputs[0], self.axis(node)
        ranks = {len(shape_of(tensor) or ()) for tensor in (data, node.outputs[0])}
        if not (is_constant(weight) and self._has_constants(node)) or len(weight.shape) < 2 or len(ranks) > 1:
            return False
        sizes = facts.size(data, axis), facts.size(node.outputs[0], axis)
        return self.is_plain(node) and sizes == (weight.shape[self.inner], weight.shape[self.free])

    def _has_constants(self, node: gs.Node) -> bool:
        fixed = (operand(node, i) for i in (self.operands.weight, *self.operands.per_output))
        return all(is_constant(t) for t in fixed if t is not None)

    def is_plain(self, node: gs.Node) -> bool:
        """Whether every output channel may read every input channel."""
        return rank_of(node.inputs[self.operands.weight]) == 2

    def _points(self, node: gs.Node, facts: Facts) -> Array:
        """Zero points of the weights: one, or one for each output channel."""
        zero = operand(node, self.operands.weight_zero)
        return np.zeros(1, np.int64) if zero is None else facts.value(zero).astype(np.int64).reshape(-1)

    def _nonzero(self, node: gs.Node, facts: Facts) -> Nonzero:
        """Which input channels [rows] each output channel [columns] depends on."""
        weight = node.inputs[self.operands.weight]
        values = np.moveaxis(facts.value(weight), (self.inner, self.free), (-2, -1))
        return Nonzero.of((values != self._points(node, facts)).reshape(-1, *values.shape[-2:]).any(axis=0))

    def _at_zero(self, node: gs.Node, facts: Facts) -> Mask:
        """Channels of the data that lie at its zero point."""
        data, zero, axis = node.inputs[0], operand(node, self.operands.data_zero), self.axis(node)
        size = facts.size(data, axis) or 0
        if zero is not None and not is_constant(zero):
            return _zero_before(data, zero, axis, facts)
        known, point = facts.known(data, axis), 0 if zero is None else facts.uniform(zero)
        if known is None or point is None:
            return np.zeros(size, bool)
        return known.only(point).mask

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        if not self.is_understood(node, facts):
            return
        mask = ~self._nonzero(node, facts).columns(~self._at_zero(node, facts))
        bias = None if self.operands.bias is None else operand(node, self.operands.bias)
        if bias is not None:
            mask &= facts.value(bias).reshape(-1) == 0
        zero = None if self.operands.output_zero is None else operand(node, self.operands.output_zero)
        value: Array = np.zeros(1, np.int32) if zero is None else facts.value(zero).reshape(-1)
        if mask.any():
            yield 0, self.axis(node), ConstantSlices(mask, np.broadcast_to(value, mask.shape))

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        if self.is_understood(node, facts):
            axis = self.axis(node)
            yield 0, axis, self._nonzero(node, facts).rows(facts.live(node.outputs[0], axis))

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        key = 0, self.axis(node)
        return {key: asked[key]} if key in asked and self.is_understood(node, facts) else {}

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        if not self.is_understood(node, facts):
            return {}
        axis, size = self.axis(node), initializer(node, self.operands.weight).shape[self.free]
        outputs = stored.get((0, axis), np.ones(size, bool))
        need = self._nonzero(node, facts).rows(outputs) & ~self._at_zero(node, facts)
        flops = 2.0 * self.cost(node)[1] / need.size
        demands = {(0, axis): Demand(need, flexible=True, flops=flops, reason=kept_reasons.NO_BIAS)}
        for index in self.operands.per_output:
            tensor = operand(node, index)
            if tensor is not None and shape_of(tensor) == (size,):
                demands[index, 0] = Demand(outputs)
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        before, index = rewriter.before, self.operands.weight
        if not self.is_understood(before, rewriter.facts):
            return
        axis = self.axis(before)
        cuts = {self.inner: rewriter.required(node, 0, axis), self.free: rewriter.stored(before.outputs[0], axis)}
        rewriter.set_input(node, index, rewriter.slice(before.inputs[index], cuts))

    def depth(self, node: gs.Node) -> int:
        """How many products are summed for one output element."""
        return product((shape_of(node.inputs[0]) or ())[-1:])

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """As for floats: two for each product, less one for each sum, and one for the bias."""
        out, depth = volume(node.outputs[0]), self.depth(node)
        bias = self.operands.bias is not None and operand(node, self.operands.bias) is not None
        return out * (2 * depth - 1) + out * bias, out * depth


@register("MatMulInteger")
class MatMulInteger(IntegerProduct):
    """int32 out."""

    operands = Operands(weight=1, data_zero=2, weight_zero=3, per_output=(3,))
    foldable = True


@register("QLinearMatMul")
class QLinearMatMul(IntegerProduct):
    """Steps of a given scale out."""

    operands = Operands(weight=3, data_zero=2, weight_zero=5, output_zero=7, per_output=(4, 5, 6, 7))


class IntegerConvolution(IntegerProduct):
    """Padding lies at the zero point of the data."""

    channels, inner, free = 1, 1, 0

    def is_plain(self, node: gs.Node) -> bool:
        return bool(node.attrs.get("group", 1) == 1)

    def form(self, node: gs.Node) -> Op:
        shape = shape_of(node.inputs[self.operands.weight]) or (0, 0)
        return Depthwise(self.operands) if node.attrs.get("group", 1) == shape[0] != 1 else self

    def depth(self, node: gs.Node) -> int:
        return product((shape_of(node.inputs[self.operands.weight]) or ())[1:])


class Depthwise(IntegerConvolution):
    """One filter for each channel: what is written is what is read."""

    def __init__(self, operands: Operands) -> None:
        self.operands = operands

    def form(self, node: gs.Node) -> Op:
        return self

    def is_understood(self, node: gs.Node, facts: Facts) -> bool:
        sizes = facts.size(node.inputs[0], 1), facts.size(node.outputs[0], 1)
        return self._has_constants(node) and sizes[0] == sizes[1] == node.attrs.get("group", 1)

    def _nonzero(self, node: gs.Node, facts: Facts) -> Nonzero:
        values = facts.value(node.inputs[self.operands.weight])
        live = (np.moveaxis(values, 0, -1) != self._points(node, facts)).any(axis=tuple(range(values.ndim - 1)))
        return Nonzero.of(np.diag(live))

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        if (0, 1) in demands:
            outputs = stored.get((0, 1), np.ones(facts.size(node.outputs[0], 1) or 0, bool))
            demands[0, 1] = Demand(outputs, reason=kept_reasons.EACH_BY_ITSELF, echo=(0, 1))
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        kept = rewriter.stored(rewriter.before.outputs[0], 1)
        if kept is not None:
            index = self.operands.weight
            rewriter.set_input(node, index, rewriter.slice(rewriter.before.inputs[index], {0: kept}))
            node.attrs["group"] = int(kept.sum())

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [(0, 1)] if axis == 1 else []


@register("ConvInteger")
class ConvInteger(IntegerConvolution):
    """int32 out."""

    operands = Operands(weight=1, data_zero=2, weight_zero=3, per_output=(3,))


@register("QLinearConv")
class QLinearConv(IntegerConvolution):
    """Steps of a given scale out, with an int32 bias."""

    operands = Operands(3, 2, 5, output_zero=7, bias=8, per_output=(4, 5, 6, 7, 8))


def _zero_before(data: gs.Tensor, zero: gs.Tensor, axis: int, facts: Facts) -> Mask:
    """Channels that were zero when a DynamicQuantizeLinear made both the data and its zero point."""
    producer = data.inputs[0] if data.inputs else None
    if producer is None or not isinstance(rules(producer), DynamicQuantize) or producer.outputs[2] is not zero:
        return np.zeros(facts.size(data, axis) or 0, bool)
    return facts.zero(producer.inputs[0], axis)


@register("DynamicQuantizeLinear")
class DynamicQuantize(Op):
    """The scale follows from the least and the largest element, and zero: it takes no notice of zeros that are gone."""

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        return {
            (output, axis): mask | ~facts.zero(node.inputs[0], axis)
            for (output, axis), mask in asked.items()
            if output == 0 and facts.size(node.inputs[0], axis) == mask.size
        }

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        reason = kept_reasons.SCALE_OF_ALL
        return {(0, axis): Demand(mask, reason=reason) for (_, axis), mask in stored.items()}

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """One for each element."""
        return volume(node.inputs[0]), 0

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [(0, axis)] if output == 0 else []


@register("MatMulNBits", domain="com.microsoft")
class MatMulNBits(Op):
    """A · Wᵀ + bias for W [N, K] in blocks along K. Source: ONNX Runtime's contrib operators."""

    width_axis = -1

    def form(self, node: gs.Node) -> Op:
        given = node.attrs.keys() >= {"K", "N"} and all(operand(node, index) is not None for index in range(3))
        return self if given else UNKNOWN  # nobody checks the form of such operators

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        last = len(shape_of(node.outputs[0]) or ()) - 1
        given = [t for index in _BY_ROW if (t := operand(node, index)) is not None]
        stored = all(is_constant(t) for t in given) and not node.attrs.get("weight_prepacked", 0)
        return {key: mask for key, mask in asked.items() if key == (0, last) and stored}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        before = rewriter.before
        kept = rewriter.stored(before.outputs[0], len(rewriter.shape(before.outputs[0])) - 1)
        if kept is None:
            return
        for index in _BY_ROW:
            if operand(before, index) is not None:
                tensor = initializer(before, index)
                rewriter.set_input(node, index, rewriter.slice(tensor, {0: _spread(kept, tensor.shape[0])}))
        node.attrs["N"] = int(kept.sum())

    def cost(self, node: gs.Node) -> tuple[int, int]:
        out, k = volume(node.outputs[0]), int(node.attrs["K"])
        return out * (2 * k - 1) + (out if operand(node, 5) is not None else 0), out * k


def _spread(rows: Mask, size: int) -> Mask:
    """For an operand of `size` elements along its first axis, those that belong to these rows."""
    return np.repeat(rows, size // rows.size)
