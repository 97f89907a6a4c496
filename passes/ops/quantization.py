"""Operators between numbers and the steps of a scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.shape_rules import OutputSizesRule, Shape, ShapeVectors, SizeRule
from passes.abstract_values.slices import ConstantSlices, Demand, Demands, Dependences, Link, Sets
from passes.abstract_values.windows import kernel_windows, positions
from passes.graph.tensors import (
    Array,
    Dim,
    Mask,
    element_of,
    initializer,
    is_constant,
    numpy_dtype,
    operand,
    present,
    product,
    shape_of,
    size_of,
    static_shape,
    values_of,
    volume,
)
from passes.ops.base import UNKNOWN, Op, register, rules
from passes.ops.batch_normalization import PerChannel
from passes.ops.contractions.base import Contraction
from passes.ops.contractions.labels import WHOLE, Label, Projection, Terms
from passes.ops.traits import WeightedSum, WeightedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.weights.packed_blocks import PackedBlocks
from passes.weights.quantized import Quantized, dequantized
from passes.weights.statistics import Nonzero
from passes.weights.steps import Steps

# Operands of MatMulNBits that have a row, or as many elements as a row has blocks, for each column of the output.
_BY_ROW = (1, 2, 3, 5)
_IN_BYTES = 4  # the level of accuracy at which it rounds its data to 8 bits
_FEW = 0.75  # share of the channels: with more of them left an ordinary product is slower


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
        operands = [t for t in node.inputs if not t.is_empty()]
        stored = [t for t in operands if is_constant(t) and not isinstance(t.dtype, int)]
        if len(stored) < len(operands) or self.contradiction(node) or isinstance(stored[0], Quantized):
            return None
        few = stored[0].dtype == np.int32 or np.dtype(stored[0].dtype).name.startswith(_FEW_BITS)
        typed = node.attrs.get("output_dtype", 0) in (0, element_of(stored[1].dtype))
        return dequantized(node, stored) if few and typed else None


_FEW_BITS = ("int2", "int4", "int8", "int16", "uint2", "uint4", "uint8", "uint16", "float8", "float4")


@dataclass(frozen=True)
class Operands:
    """Positions of the inputs; `per_output` are those that may be vectors along the output's channels."""

    weight: int
    data_zero: int
    weight_zero: int
    output_zero: int | None = None
    bias: int | None = None
    per_output: tuple[int, ...] = ()


class IntegerProduct(Contraction):
    """Sums of (data - its zero point) · (weights - theirs): channels at the zero point add nothing.

    Other constants add integers to the sums, which an int32 bias takes in where all sums have the same terms.
    Source: ONNX operator specification, MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv.
    """

    width_axis = None
    foldable = False
    maps = Op.maps  # steps are rounded, and the addends are integers
    reason = kept_reasons.NO_BIAS
    operands = Operands(1, 2, 3)
    #: the axis of the weights that runs along the output
    free = 1

    def letters(self, node: gs.Node) -> tuple[str, str, str] | None:
        """Those of data, weights and output, None for other forms; "_": an axis that stays whole, ".": any number."""
        raise NotImplementedError

    def terms(self, node: gs.Node) -> Terms | None:
        """None unless weights and what stands beside them are initializers."""
        weight = self.operands.weight
        fixed = (operand(node, i) for i in (weight, *self.operands.per_output))
        shapes = [shape_of(t) for t in (node.inputs[0], node.inputs[weight], node.outputs[0])]
        if not all(is_constant(t) for t in fixed if t is not None) or None in shapes:
            return None
        ranks = [len(shape or ()) for shape in shapes]
        letters = self.letters(node)
        if letters is None or ranks[0] != ranks[2] or ranks[1] < 2:
            return None
        data, weights, output = (_placed(each, rank) for each, rank in zip(letters, ranks, strict=True))
        return Terms([data, *[[]] * (weight - 1), weights], output)

    def projection(self, node: gs.Node, labels: Sequence[Label]) -> Projection | None:
        terms = self.terms(node)
        return None if terms is None else Projection(0, self.operands.weight, labels, terms)

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        """Of what data that are quantised by their range were before; others are sums around a zero point."""
        zero = operand(node, self.operands.data_zero)
        data = node.inputs[0] if zero is None else _before_steps(node.inputs[0], zero)
        if data is not None and self.operands.output_zero is None:
            yield from (replace(each, data=data, bias_shape=None) for each in super().weighted_sums(node))

    def stored_steps(self, node: gs.Node, weights: gs.Constant) -> Steps:
        zero, values = operand(node, self.operands.weight_zero), values_of(weights)
        points = np.zeros(1, np.int8) if zero is None else values_of(zero)
        along = [-1 if a == self.free else 1 for a in range(values.ndim)]
        return Steps(weights.name, values, np.ones((), np.float32), points.reshape(along))

    def beside(self, node: gs.Node) -> Iterator[tuple[int, int, int]]:
        terms = self.terms(node)
        if terms is None:
            return
        out = terms.output.index(terms.factors[self.operands.weight][self.free])
        vectors = [
            i for i in self.operands.per_output if (t := operand(node, i)) is not None and len(shape_of(t) or ()) == 1
        ]
        yield from ((index, out, 0) for index in vectors if size_of(node.inputs[index], 0) != 1)

    def steps(self, node: gs.Node) -> Array:
        """How far the weights, of 8 bits, are from their zero point: int16."""
        found = self.stored_steps(node, initializer(node, self.operands.weight))
        return np.asarray(found.numbers.astype(np.int16) - found.zero)

    def zeros(self, node: gs.Node, facts: Facts, index: int, axis: int) -> Mask:
        if index:
            steps = self.steps(node)
            return np.asarray(~steps.any(axis=tuple(a for a in range(steps.ndim) if a != axis)))
        data, zero = node.inputs[0], operand(node, self.operands.data_zero)
        if zero is not None and not is_constant(zero):
            before = _before_steps(data, zero)  # channels that were zero then are at the zero point
            return np.zeros(facts.size(data, axis) or 0, bool) if before is None else facts.zero(before, axis)
        known, point = facts.known(data, axis), 0 if zero is None else facts.uniform(zero)
        if known is None or point is None:
            return np.zeros(facts.size(data, axis) or 0, bool)
        return known.only(point).mask

    def nonzero(self, node: gs.Node, facts: Facts, index: int, axes: tuple[int, int]) -> Nonzero:
        adds = np.moveaxis(self.steps(node) != 0, axes, (-2, -1))
        return Nonzero.of(np.asarray(adds.reshape(-1, *adds.shape[-2:]).any(axis=0)))

    def spreads_evenly(self, node: gs.Node) -> bool:
        """Whether constant data add the same to each sum."""
        return True

    def absorbed(self, node: gs.Node, facts: Facts, projection: Projection, label: Label) -> ConstantSlices | None:
        """Constants as steps from the zero point."""
        axis, zero = projection.axis(label, 0), operand(node, self.operands.data_zero)
        known, point = facts.known(node.inputs[0], axis), 0 if zero is None else facts.uniform(zero)
        takes = self.operands.output_zero is None or self.operands.bias is not None
        if known is not None and point is not None and takes and self.spreads_evenly(node):
            return ConstantSlices(known.mask, known.value.astype(np.float64) - float(point))
        dead = self.zeros(node, facts, 0, axis)
        return ConstantSlices(dead, np.zeros(dead.shape))

    def _sum(self, node: gs.Node, projection: Projection, values: Array) -> tuple[Array, list[int]]:
        (inner,), letters = projection.inner_axes, projection.terms.factors[projection.weights]
        steps = np.moveaxis(self.steps(node), (self.free, inner), (0, 1)).astype(np.float64)
        total = steps.reshape(*steps.shape[:2], -1).sum(axis=2) @ values
        return total, [projection.terms.output.index(letters[self.free])]

    def with_operands_beside(
        self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices
    ) -> ConstantSlices | None:
        """The sums, or the zero point of the output where these are 0 and there is no bias either."""
        if self.operands.output_zero is None:
            return sums
        bias, zero = (None if i is None else operand(node, i) for i in (self.operands.bias, self.operands.output_zero))
        mask = sums.mask & (sums.value == 0)
        mask = mask if bias is None else mask & (facts.value(bias).reshape(-1) == 0)
        value: Array = np.zeros(1, np.int32) if zero is None else facts.value(zero).reshape(-1)
        return ConstantSlices(mask, np.broadcast_to(value, mask.shape))

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        """None: steps lie around a zero point."""
        return iter(())

    def add(self, node: gs.Node, rewriter: Rewriter, total: Array, axes: list[int], first: int = 0) -> None:
        index = self.operands.bias
        if index is None:
            return super().add(node, rewriter, total, axes, first)
        bias = operand(node, index)
        total = total if bias is None else total + values_of(bias)
        return rewriter.set_input(node, index, rewriter.constant("bias", total.astype(np.int32)))

    def depth(self, node: gs.Node) -> int:
        """How many products are summed for one output element."""
        return product((shape_of(node.inputs[0]) or ())[-1:])

    def flops_per_slice(self, node: gs.Node) -> float:
        channels = size_of(node.inputs[self.operands.weight], 1 - self.free) or 1
        return 2.0 * self.cost(node)[1] / channels

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """As for floats: two for each product, less one for each sum, and one for the bias."""
        out, depth = volume(node.outputs[0]), self.depth(node)
        bias = self.operands.bias is not None and operand(node, self.operands.bias) is not None
        return out * (2 * depth - 1) + out * bias, out * depth


def _placed(letters: str, rank: int) -> list[str]:
    """One letter for each of `rank` axes."""
    before, _, after = letters.partition(".")
    every = f"{before}{'_' * (rank - len(before) - len(after))}{after}"
    return [WHOLE if letter == "_" else letter for letter in every]


@register("MatMulInteger")
class MatMulInteger(IntegerProduct):
    """int32 out."""

    operands = Operands(weight=1, data_zero=2, weight_zero=3, per_output=(3,))
    foldable = True

    def letters(self, node: gs.Node) -> tuple[str, str, str] | None:
        return (".k", "kn", ".n") if len(shape_of(node.inputs[self.operands.weight]) or ()) == 2 else None


@register("QLinearMatMul")
class QLinearMatMul(MatMulInteger):
    """Steps of a given scale out."""

    operands = Operands(weight=3, data_zero=2, weight_zero=5, output_zero=7, per_output=(4, 5, 6, 7))
    foldable = False


class IntegerConvolution(SizeRule, IntegerProduct):
    """Padding lies at the zero point of the data."""

    free = 0
    slides = "Conv"

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        weights = shape_of(node.inputs[self.operands.weight]) or ()
        windows = kernel_windows(weights, node.attrs)
        return None if windows is None else positions(shape_of(node.inputs[0]), windows, weights[0])

    def letters(self, node: gs.Node) -> tuple[str, str, str] | None:
        """With one filter for each channel, what is written is what is read."""
        groups = node.attrs.get("group", 1)
        if groups == 1:
            return "_c.", "oc.", "_o."
        return ("_c.", "c.", "_c.") if groups == size_of(node.inputs[self.operands.weight], 0) else None

    def spreads_evenly(self, node: gs.Node) -> bool:
        """Unless a border reads less of it."""
        auto = node.attrs.get("auto_pad", "NOTSET")
        whole = (shape_of(node.inputs[self.operands.weight]) or ())[2:]
        return all(size == 1 for size in whole) if auto.startswith("SAME") else not any(node.attrs.get("pads", []))

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        super().lower(node, rewriter)
        kept = rewriter.stored(rewriter.before.outputs[0], 1)
        if kept is not None and node.attrs.get("group", 1) != 1:
            node.attrs["group"] = int(kept.sum())

    def depth(self, node: gs.Node) -> int:
        return product((shape_of(node.inputs[self.operands.weight]) or ())[1:])


@register("ConvInteger")
class ConvInteger(IntegerConvolution):
    """int32 out."""

    operands = Operands(weight=1, data_zero=2, weight_zero=3, per_output=(3,))


@register("QLinearConv")
class QLinearConv(IntegerConvolution):
    """Steps of a given scale out, with an int32 bias."""

    operands = Operands(3, 2, 5, output_zero=7, bias=8, per_output=(4, 5, 6, 7, 8))


def _before_steps(data: gs.Tensor, zero: gs.Tensor) -> gs.Tensor | None:
    """What a DynamicQuantizeLinear made both the data and its zero point of; None if none did."""
    producer = data.inputs[0] if data.inputs else None
    if producer is None or not isinstance(rules(producer), DynamicQuantize) or producer.outputs[2] is not zero:
        return None
    return producer.inputs[0]


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

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        rank = len(shape_of(node.inputs[0]) or ())
        if rank and self._is_stored(node) and operand(node, 4) is None:
            bias, shape = None if operand(node, 5) is None else 5, (int(node.attrs["N"]),)
            yield WeightedSum(node.inputs[0], (rank - 1,), initializer(node, 1), "oc", 1, bias, shape)

    def stored_steps(self, node: gs.Node, weights: gs.Constant) -> Steps | None:
        return self._weight(node).in_steps(weights.name) if weights is node.inputs[1] else None

    @staticmethod
    def _weight(node: gs.Node) -> PackedBlocks:
        return PackedBlocks.of(node.attrs, *(values_of(t) for i in (1, 2, 3) if (t := operand(node, i)) is not None))

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
        if node.attrs.get("accuracy_level", 0) < _IN_BYTES and need.mean() <= _FEW:
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
                    rewriter.set_input(node, index, rewriter.slice(tensor, {0: _spread(rows, tensor.shape[0])}))
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


def _spread(rows: Mask, size: int) -> Mask:
    """For an operand of `size` elements along its first axis, those that belong to these rows."""
    return np.repeat(rows, size // rows.size)
