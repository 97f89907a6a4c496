"""Rules of products of integers around zero points: MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule
from passes.abstract_values.slices import ConstantSlices, Dependences
from passes.abstract_values.windows import kernel_windows, positions
from passes.graph.tensors import (
    Array,
    Mask,
    initializer,
    is_constant,
    numpy_dtype,
    operand,
    product,
    shape_of,
    size_of,
    values_of,
)
from passes.ops.base import Op, register, rules
from passes.ops.contractions.base import Contraction, Left
from passes.ops.contractions.labels import WHOLE, Label, Projection, Terms, of_matrices
from passes.ops.quantization import DynamicQuantize
from passes.ops.traits import WeightedSum
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.weights.statistics import Nonzero
from passes.weights.steps import Steps

# Distance of a sum from the middle between two steps at which single precision may round it to either.
_TIE = 1e-3


@dataclass(frozen=True)
class Operands:
    """Positions of the inputs; `per_output` are those that may be vectors along the output's channels.

    `scales` are those of data, weights and output, where the sums are rounded to steps of it.
    """

    weight: int
    data_zero: int
    weight_zero: int
    output_zero: int | None = None
    bias: int | None = None
    scales: tuple[int, ...] = ()
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
        terms = self.terms(node) if is_constant(node.inputs[self.operands.weight]) else None
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
        if terms is None or not is_constant(node.inputs[self.operands.weight]):
            return
        out = terms.output.index(terms.factors[self.operands.weight][self.free])
        for index in self.operands.per_output:
            vector = operand(node, index)
            if vector is not None and len(shape_of(vector) or ()) == 1 and size_of(vector, 0) != 1:
                yield index, out, 0

    def steps(self, node: gs.Node) -> Array:
        """How far the weights, of 8 bits, are from their zero point: int16."""
        found = self.stored_steps(node, initializer(node, self.operands.weight))
        return np.asarray(found.numbers.astype(np.int16) - found.zero)

    def zeros(self, node: gs.Node, facts: Facts, index: int, axis: int) -> Mask:
        if index and is_constant(node.inputs[index]):
            steps = self.steps(node)
            return np.asarray(~steps.any(axis=tuple(a for a in range(steps.ndim) if a != axis)))
        data, zero = node.inputs[index], operand(node, self.operands.weight_zero if index else self.operands.data_zero)
        if zero is not None and not is_constant(zero):
            before = _before_steps(data, zero)  # channels that were zero then are at the zero point
            return np.zeros(facts.size(data, axis) or 0, bool) if before is None else facts.zero(before, axis)
        known, point = facts.constant_slices(data, axis), 0 if zero is None else facts.uniform(zero)
        return np.zeros(known.mask.size, bool) if point is None else known.only(point).mask

    def nonzero(self, node: gs.Node, facts: Facts, index: int, axes: tuple[int, int]) -> Nonzero:
        adds = np.moveaxis(self.steps(node) != 0, axes, (-2, -1))
        return Nonzero.of(np.asarray(adds.reshape(-1, *adds.shape[-2:]).any(axis=0)))

    def spreads_evenly(self, node: gs.Node) -> bool:
        """Whether constant data add the same to each sum."""
        return True

    def absorbed(self, node: gs.Node, facts: Facts, projection: Projection, label: Label) -> ConstantSlices:
        """Constants as steps from the zero point."""
        axis, zero = projection.axis(label, 0), operand(node, self.operands.data_zero)
        known, point = facts.constant_slices(node.inputs[0], axis), 0 if zero is None else facts.uniform(zero)
        takes = self.operands.output_zero is None or self.operands.bias is not None
        if point is not None and takes and self.spreads_evenly(node):
            return ConstantSlices(known.mask, known.value.astype(np.float64) - float(point))
        dead = self.zeros(node, facts, 0, axis)
        return ConstantSlices(dead, np.zeros(dead.shape))

    def _sum(self, node: gs.Node, projection: Projection, values: Array) -> tuple[Array, list[int]]:
        (inner,), letters = projection.inner_axes, projection.terms.factors[projection.weights]
        steps = np.moveaxis(self.steps(node), (self.free, inner), (0, 1)).astype(np.float64)
        total = steps.reshape(*steps.shape[:2], -1).sum(axis=2) @ values
        return total, [projection.terms.output.index(letters[self.free])]

    def with_operands_beside(self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices) -> ConstantSlices:
        """The sums, or what the output has of them and of the bias: steps around its zero point."""
        if self.operands.output_zero is None:
            return sums
        bias, zero = (None if i is None else operand(node, i) for i in (self.operands.bias, self.operands.output_zero))
        if zero is not None and not is_constant(zero):
            return ConstantSlices(np.zeros(sums.mask.size, bool), sums.value)
        added = 0 if bias is None else facts.value(bias).reshape(-1)
        point: Array = np.zeros(1, np.int32) if zero is None else facts.value(zero).reshape(-1).astype(np.int32)
        steps = self._steps_out(node, facts, sums.value + added)
        kind = np.iinfo(numpy_dtype(node.outputs[0]))
        value = np.clip(np.nan_to_num(steps) + point, kind.min, kind.max)
        return ConstantSlices(sums.mask & np.isfinite(steps), np.broadcast_to(value, sums.mask.shape))

    def _steps_out(self, node: gs.Node, facts: Facts, sums: Array) -> Array:
        """Sums in steps of the output: float64 [channels], NaN where these are not known or rounding may err."""
        scales = [operand(node, i) for i in self.operands.scales]
        known = [facts.value(t).reshape(-1).astype(np.float64) for t in scales if t is not None and is_constant(t)]
        if len(known) < len(scales) or any(scale.size not in (1, sums.size) for scale in known):
            return np.where(sums == 0, 0.0, np.nan)
        data, weights, output = known
        exact = sums * data * weights / output
        return np.where((sums == 0) | (np.abs(exact % 1 - 0.5) > _TIE), np.rint(exact), np.nan)

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        """None: steps lie around a zero point."""
        return iter(())

    def add_removed(self, node: gs.Node, rewriter: Rewriter, projection: Projection, left: Left) -> None:
        zero = operand(rewriter.before, self.operands.data_zero)
        if zero is None or is_constant(zero):  # else only what lies at the zero point goes
            super().add_removed(node, rewriter, projection, left)

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
        out, depth = product(shape_of(node.outputs[0]) or ()), self.depth(node)
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

    def terms(self, node: gs.Node) -> Terms | None:
        """Of data as well, as in attention, around one zero point each."""
        weight, beside = self.operands.weight, [operand(node, i) for i in self.operands.per_output]
        if is_constant(node.inputs[weight]):
            return super().terms(node)
        shapes = [shape_of(t) for t in (node.inputs[0], node.inputs[weight], node.outputs[0])]
        found = of_matrices(*(-1 if shape is None else len(shape) for shape in shapes))
        sizes = [shape_of(t) for t in beside if t is not None]
        single = all(shape is not None and product(shape) == 1 for shape in sizes)
        if found is None or not single or is_constant(node.inputs[0]):
            return None
        return Terms([found.factors[0], *[[]] * (weight - 1), found.factors[1]], found.output)

    def is_batch(self, node: gs.Node, axis: int) -> bool:
        terms = self.terms(node)
        return terms is not None and terms.output[axis].startswith(".")

    def letters(self, node: gs.Node) -> tuple[str, str, str] | None:
        return (".k", "kn", ".n") if len(shape_of(node.inputs[self.operands.weight]) or ()) == 2 else None


@register("QLinearMatMul")
class QLinearMatMul(MatMulInteger):
    """Steps of a given scale out."""

    operands = Operands(weight=3, data_zero=2, weight_zero=5, output_zero=7, scales=(1, 4, 6), per_output=(4, 5, 6, 7))
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

    operands = Operands(3, 2, 5, output_zero=7, bias=8, scales=(1, 4, 6), per_output=(4, 5, 6, 7, 8))


def _before_steps(data: gs.Tensor, zero: gs.Tensor) -> gs.Tensor | None:
    """What a DynamicQuantizeLinear made both the data and its zero point of; None if none did."""
    producer = data.inputs[0] if data.inputs else None
    if producer is None or not isinstance(rules(producer), DynamicQuantize) or producer.outputs[2] is not zero:
        return None
    return producer.inputs[0]
