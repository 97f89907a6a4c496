"""Operators between numbers and the steps of a scale."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.shape_rules import OutputSizesRule, Shape
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Link, Sets
from passes.graph.editor import Change
from passes.graph.tensors import (
    Array,
    Dim,
    Index,
    Mask,
    element_of,
    initializer,
    is_constant,
    is_floating,
    numpy_dtype,
    operand,
    present,
    shape_of,
    size_of,
    static_shape,
    values_of,
    volume,
)
from passes.ops.base import UNKNOWN, Op, register, rules
from passes.ops.batch_normalization import PerChannel
from passes.ops.traits import WeightedSum, WeightedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering
from passes.rewriting.lower_ops import Rewriter
from passes.weights.packed_blocks import PackedBlocks
from passes.weights.quantized import Quantized, dequantized, numbers
from passes.weights.steps import Steps

# Operands of MatMulNBits that have a row, or as many elements as a row has blocks, for each column of the output.
_BY_ROW = (1, 2, 3, 5)
_IN_BYTES = 4  # the level of accuracy at which it rounds its data to 8 bits
# Share of the channels: with more of them left an ordinary product is slower, or larger where numbers take more bits.
_FEW = 0.75

_finfo, _iinfo = functools.cache(ml_dtypes.finfo), functools.cache(ml_dtypes.iinfo)


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


def same_steps(one: gs.Node, other: gs.Node) -> bool:
    """Whether two nodes of these have the same scale and zero point."""
    for index in (1, 2):
        first, second = operand(one, index), operand(other, index)
        if first is None or second is None or not is_constant(first) or not is_constant(second):
            if first is not second:
                return False
        elif not np.array_equal(values_of(first), values_of(second)):
            return False
    return True


@register("QuantizeLinear")
class Quantize(Quantization):
    """To the nearest step, ties to the even one, within the range of the type."""

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        x, scale, zero = [*operands, None][:3]
        dtype = numpy_dtype(node.outputs[0])
        if x is None or scale is None or not node.attrs.get("saturate", 1):
            return None
        with np.errstate(all="ignore"):
            steps = (x.astype(np.float32) / scale.astype(np.float32)).astype(np.float64)
        if not np.isfinite(steps).all():
            return None
        rounded, limits = (steps, _finfo(dtype)) if is_floating(dtype) else (np.rint(steps), _iinfo(dtype))
        shifted = rounded if zero is None else rounded + zero.astype(np.float64)
        return np.clip(shifted, float(limits.min), float(limits.max)).astype(dtype)

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        """Zero is at the zero point, whatever the scale is."""
        data, _, zero = [*operands, None][:3]
        if data is None or facts.lowest(node.inputs[1]) <= 0:
            return None
        point = ConstantSlices(np.ones_like(data.mask), np.zeros(data.mask.shape, numpy_dtype(node.outputs[0])))
        return ConstantSlices(data.only(0).mask & (zero or point).mask, (zero or point).value)


@register("DequantizeLinear")
class Dequantize(Quantization):
    """Weights after it keep their few bits, and are read and sliced as the numbers that they stand for."""

    foldable = False

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        """Also what was zero before it was quantised by its range."""
        yield from super().constants(node, facts)
        before = before_steps(node.inputs[0], operand(node, 2))
        if before is not None:
            for axis, _ in facts.axes(node.outputs[0]):
                yield 0, axis, facts.constant_slices(before, axis).only(0)

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        x, scale, zero = [*operands, None][:3]
        return None if x is None or scale is None else numbers(x, scale, zero)

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        """The zero point is zero, whatever the scale is."""
        data, _, zero = [*operands, None][:3]
        if data is None:
            return None
        at = data.only(0).mask if zero is None else data.mask & zero.mask & (data.value == zero.value)
        return ConstantSlices(at, np.zeros(at.shape, numpy_dtype(node.outputs[0])))

    def quantized(self, node: gs.Node) -> Quantized | None:
        """The output as a weight that keeps its few bits; None if it is none."""
        operands = [t for t in node.inputs if not t.is_empty()]
        stored = [t for t in operands if is_constant(t) and not isinstance(t.dtype, int)]
        if len(stored) < len(operands) or self.contradiction(node) or isinstance(stored[0], Quantized):
            return None
        few = stored[0].dtype == np.int32 or np.dtype(stored[0].dtype).name.startswith(_FEW_BITS)
        typed = node.attrs.get("output_dtype", 0) in (0, element_of(stored[1].dtype))
        return dequantized(node, stored) if few and typed else None


_FEW_BITS = ("int2", "int4", "int8", "int16", "uint2", "uint4", "uint8", "uint16", "float8", "float4")


@register("DynamicQuantizeLinear")
class DynamicQuantize(Op, Reordering):
    """The scale follows from the least and the largest element, and zero: it takes no notice of constants between."""

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        same = size_of(node.inputs[0], axis) == order.size  # as the scale is that of all
        return orders.written(node.inputs[0], axis, order) if same and output == 0 else None

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        return orders.read(node.outputs[0], axis, order)

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        return {
            (output, axis): mask | self._sets_scale(facts.constant_slices(node.inputs[0], axis), mask)
            for (output, axis), mask in asked.items()
            if output == 0 and facts.size(node.inputs[0], axis) == mask.size
        }

    @staticmethod
    def _sets_scale(known: ConstantSlices, asked: Mask) -> Mask:
        """Slices that are not constant, and a constant beyond zero and all that are asked for, at either end."""
        needed, values = ~known.mask, np.where(known.mask, known.value, 0)
        for value in (values, -values):
            furthest = int(value.argmax())
            needed[furthest] |= value[furthest] > value[asked].max(initial=0)
        return needed

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        sizes = {axis: facts.size(node.inputs[0], axis) for axis in range(len(shape_of(node.inputs[0]) or ()))}
        wanted = {axis: stored.get((0, axis), np.ones(size, bool)) for axis, size in sizes.items() if size}
        return {(0, axis): Demand(mask, reason=kept_reasons.SCALE_OF_ALL) for axis, mask in wanted.items()}

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """One for each element."""
        return volume(node.inputs[0]), 0

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [(0, axis)] if output == 0 else []


def before_steps(data: gs.Tensor, zero: gs.Tensor | None) -> gs.Tensor | None:
    """What a DynamicQuantizeLinear made both the data and its zero point of; None if none did."""
    producer = data.inputs[0] if data.inputs else None
    if producer is None or not isinstance(rules(producer), DynamicQuantize) or producer.outputs[2] is not zero:
        return None
    return producer.inputs[0]


@register("MatMulNBits", domain="com.microsoft")
class MatMulNBits(OutputSizesRule, Op, WeightedSums):
    """A · Wᵀ + bias for W [N, K] in blocks along K. Source: ONNX Runtime's contrib operators."""

    width_axis = -1
    reason = kept_reasons.NO_BIAS

    def form(self, node: gs.Node) -> Op:
        """Nobody checks that of such operators: not the operands, and not the attributes."""
        sizes, given = PackedBlocks.sizes(node.attrs), dict(present(node.inputs))
        if sizes is None or not given.keys() >= {0, 1, 2}:
            return UNKNOWN
        packed, scales, zeros = sizes
        zeros = zeros if 3 in given and given[3].dtype == np.uint8 else scales
        wanted = {1: math.prod(packed), 2: scales, 3: zeros, 5: packed[0]}
        shapes = {i: shape for i, t in given.items() if i in wanted and (shape := static_shape(t)) is not None}
        fits = all(math.prod(shape) == wanted[i] for i, shape in shapes.items()) and shapes.get(1, packed) == packed
        return self if fits or node.attrs.get("weight_prepacked", 0) else UNKNOWN

    def output_sizes(self, node: gs.Node) -> Sequence[Shape]:
        shape, columns = shape_of(node.inputs[0]) if node.inputs else None, node.attrs.get("N")
        return [[*shape[:-1], columns]] if shape is not None and isinstance(columns, int) else []

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        """What sums up with zeros alone is the bias."""
        if not self._is_stored(node):
            return
        zero, bias = PackedBlocks.zero_rows(node.attrs, *self._stored(node)), operand(node, 5)
        values = np.zeros(zero.size, numpy_dtype(node.outputs[0])) if bias is None else values_of(bias)
        yield 0, len(shape_of(node.outputs[0]) or ()) - 1, ConstantSlices(zero, values)

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        rank = len(shape_of(node.inputs[0]) or ())
        if rank and self._is_stored(node) and operand(node, 4) is None:
            bias, shape = None if operand(node, 5) is None else 5, (int(node.attrs["N"]),)
            yield WeightedSum(node.inputs[0], (rank - 1,), initializer(node, 1), "oc", 1, bias, shape)

    def stored_steps(self, node: gs.Node, weights: gs.Constant) -> Steps | None:
        return self._weight(node).in_steps(weights.name) if weights is node.inputs[1] else None

    @classmethod
    def _weight(cls, node: gs.Node) -> PackedBlocks:
        return PackedBlocks.of(node.attrs, *cls._stored(node))

    @staticmethod
    def _stored(node: gs.Node) -> list[Array]:
        return [values_of(t) for index in (1, 2, 3) if (t := operand(node, index)) is not None]

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        last = len(shape_of(node.outputs[0]) or ()) - 1
        return {key: mask for key, mask in asked.items() if key == (0, last) and self._is_stored(node)}

    @staticmethod
    def _is_stored(node: gs.Node) -> bool:
        given = [t for index in _BY_ROW if (t := operand(node, index)) is not None]
        return all(is_constant(t) for t in given) and not node.attrs.get("weight_prepacked", 0)

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        """Zeros are not read; in blocks where few go, and another product is slower, or where the data are rounded."""
        data, size = node.inputs[0], int(node.attrs["block_size"])
        last = len(shape_of(data) or ()) - 1
        need = ~facts.zero(data, last)
        if not self._is_stored(node) or operand(node, 4) is not None or need.size != node.attrs["K"] or not need.any():
            return {}
        bits = int(node.attrs.get("bits", 4))
        few = _FEW * min(1, 2 * bits / PackedBlocks.bits_in_tensors(bits, facts.opset))
        if node.attrs.get("accuracy_level", 0) < _IN_BYTES and need.mean() <= few:
            return {(0, last): Demand(need, flexible=True, reason=self.reason)}
        blocks = np.arange(need.size) // size
        reason = f"reads its data in blocks of {size} channels, of which all go or none"
        return {(0, last): Demand(np.isin(blocks, blocks[need]), reason=reason)}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        before = rewriter.before
        data, output = before.inputs[0], before.outputs[0]
        rows = rewriter.stored(output, len(rewriter.shape(output)) - 1)
        columns = rewriter.required(node, 0, len(rewriter.shape(data)) - 1)
        if columns is not None and not columns.all():
            self._cut_columns(node, rewriter, np.ones(node.attrs["N"], bool) if rows is None else rows, columns)
        elif rows is not None:
            for index in _BY_ROW:
                if operand(before, index) is not None:
                    tensor = initializer(before, index)
                    each = np.repeat(rows, tensor.shape[0] // rows.size)  # as many elements belong to each row
                    rewriter.set_input(node, index, rewriter.slice(tensor, {0: each}))
            node.attrs["N"] = int(rows.sum())

    def _cut_columns(self, node: gs.Node, rewriter: Rewriter, rows: Mask, columns: Mask) -> None:
        """With whole blocks less it is the same operator, with others a product with a weight of as few bits."""
        before, weight = rewriter.before, self._weight(rewriter.before)
        bias = None if operand(before, 5) is None else rewriter.slice(before.inputs[5], {0: rows})
        kept, left, blocks = np.flatnonzero(rows), np.flatnonzero(columns), np.arange(columns.size) // weight.block
        if np.isin(blocks, blocks[columns])[~columns].any():
            name = rewriter.editor.names.fresh(before.inputs[1].name)
            made = weight.weight(name, kept, left, numpy_dtype(before.inputs[0]), rewriter.opset)
            rewriter.become(node, "MatMul", [node.inputs[0], made])
            if bias is not None:
                rewriter.add_after(node, bias)
            return
        node.attrs.update(K=int(columns.sum()), N=int(rows.sum()))
        for index, new in enumerate(weight.picked(kept, left).packed(), 1):
            if operand(before, index) is not None:
                old = initializer(before, index)
                new = new.reshape(-1) if len(old.shape) == 1 else new
                rewriter.set_input(node, index, rewriter.constant(old.name, new.astype(old.dtype)))
        if bias is not None:
            rewriter.set_input(node, 5, bias)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        out, k = volume(node.outputs[0]), int(node.attrs["K"])
        return out * (2 * k - 1) + (out if operand(node, 5) is not None else 0), out * k
