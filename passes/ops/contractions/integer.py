"""Rules of sums of integers around zero points, and of the products: MatMulInteger and QLinearMatMul."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import ConstantSlices, Dependences
from passes.graph.tensors import (
    Array,
    Mask,
    along,
    initializer,
    is_constant,
    numpy_dtype,
    operand,
    product,
    shape_of,
    size_of,
    values_of,
)
from passes.ops.base import Op, register
from passes.ops.contractions.base import Contraction, Left
from passes.ops.contractions.labels import WHOLE, Label, Projection, Terms, of_matrices
from passes.ops.quantization import before_steps
from passes.ops.traits import WeightedSum, WeightedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.weights.statistics import Nonzero
from passes.weights.steps import Steps

# Distance of a sum from the middle between two steps at which single precision may round it to either.
_TIE = 1e-3


@dataclass(frozen=True)
class Operands:
    """Positions of zero points and scales; the latter are those of data, weights and output, to whose steps sums go."""

    data_zero: int
    weight_zero: int
    output_zero: int | None = None
    scales: tuple[int, ...] = ()


class IntegerSums(WeightedSums):
    """Sums of (data - its zero point) · (weights - theirs): channels at the zero point add nothing.

    Other constants add integers to the sums. Source: ONNX operator specification, MatMulInteger, ConvInteger,
    QLinearMatMul and QLinearConv.
    """

    #: positions of the weights, and of the int32 bias, None if there is none
    weight = 1
    addend: int | None = None
    operands = Operands(2, 3)
    #: the axis of the weights that runs along the output
    free = 1

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        """Of what data that are quantised by their range were before, in one group; others lie around a zero point."""
        zero = operand(node, self.operands.data_zero)
        data = node.inputs[0] if zero is None else before_steps(node.inputs[0], zero)
        if data is not None and self.operands.output_zero is None:
            sums = (each for each in super().weighted_sums(node) if each.groups == 1)
            yield from (replace(each, data=data, bias_shape=None) for each in sums)

    def stored_steps(self, node: gs.Node, weights: gs.Constant) -> Steps:
        zero, values = operand(node, self.operands.weight_zero), values_of(weights)
        points = np.zeros(1, np.int8) if zero is None else values_of(zero)
        shape = along(self.free, values.ndim)
        return Steps(weights.name, values, np.ones((), np.float32), points.reshape(shape))

    def has_stored_zero(self, node: gs.Node) -> bool:
        """Whether the zero point of the data is stored; else only channels that lie at it are removed."""
        zero = operand(node, self.operands.data_zero)
        return zero is None or is_constant(zero)

    def steps(self, node: gs.Node) -> Array:
        """How far the weights, of 8 bits, are from their zero point: int16."""
        found = self.stored_steps(node, initializer(node, self.weight))
        return np.asarray(found.numbers.astype(np.int16) - found.zero)

    def from_zero(self, node: gs.Node, facts: Facts, index: int, axis: int) -> ConstantSlices:
        """Constant slices of computed data as steps (float64) from their zero point; of a computed one, those at it."""
        data, zero = node.inputs[index], operand(node, self.operands.weight_zero if index else self.operands.data_zero)
        if zero is not None and not is_constant(zero):
            before = before_steps(data, zero)  # channels that were zero then are at the zero point
            at = np.zeros(facts.size(data, axis) or 0, bool) if before is None else facts.zero(before, axis)
            return ConstantSlices(at, np.zeros(at.shape))
        known, point = facts.constant_slices(data, axis), 0 if zero is None else facts.uniform(zero)
        mask = np.zeros_like(known.mask) if point is None else known.mask
        return ConstantSlices(mask, known.value.astype(np.float64) - float(0 if point is None else point))

    def with_operands_beside(self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices) -> ConstantSlices:
        """The sums, or what the output has of them and of the bias: steps around its zero point."""
        if self.operands.output_zero is None:
            return sums
        bias, zero = (None if i is None else operand(node, i) for i in (self.addend, self.operands.output_zero))
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


@register("MatMulInteger")
class MatMulInteger(IntegerSums, Contraction):
    """int32 out. Constants at another level than the zero point go into an Add."""

    width_axis = None
    maps = Op.maps  # steps are rounded, and the addends are integers
    reason = kept_reasons.NO_BIAS
    #: operands that may be vectors along the output
    per_output: tuple[int, ...] = (3,)

    def terms(self, node: gs.Node) -> Terms | None:
        """Of data by stored weights, with operands beside them that are stored, or by data around one zero point."""
        weights, beside = node.inputs[self.weight], [t for i in self.per_output if (t := operand(node, i)) is not None]
        read, own, written = (len(shape_of(t) or ()) for t in (node.inputs[0], weights, node.outputs[0]))
        if is_constant(weights):
            fits = own == 2 and read == written > 0 and all(map(is_constant, beside))
            found = Terms(([*[WHOLE] * (read - 1), "k"], "kn"), [*[WHOLE] * (read - 1), "n"]) if fits else None
        else:
            single = all(shape_of(t) is not None and product(shape_of(t) or ()) == 1 for t in beside)
            found = of_matrices(read, own, written) if single and not is_constant(node.inputs[0]) else None
        return found and Terms([found.factors[0], *[[]] * (self.weight - 1), found.factors[1]], found.output)

    def is_batch(self, node: gs.Node, axis: int) -> bool:
        terms = self.terms(node)
        return terms is not None and terms.output[axis].startswith(".")

    def projection(self, node: gs.Node, labels: Sequence[Label]) -> Projection | None:
        terms = self.terms(node) if is_constant(node.inputs[self.weight]) else None
        return None if terms is None else Projection(0, self.weight, labels, terms)

    def beside(self, node: gs.Node) -> Iterator[tuple[int, int, int]]:
        terms = self.terms(node) if is_constant(node.inputs[self.weight]) else None
        if terms is None:
            return
        for index in self.per_output:
            vector = operand(node, index)
            if vector is not None and len(shape_of(vector) or ()) == 1 and size_of(vector, 0) != 1:
                yield index, len(terms.output) - 1, 0

    def zeros(self, node: gs.Node, facts: Facts, index: int, axis: int) -> Mask:
        if index and is_constant(node.inputs[index]):
            steps = self.steps(node)
            return np.asarray(~steps.any(axis=tuple(a for a in range(steps.ndim) if a != axis)))
        return self.from_zero(node, facts, index, axis).only(0).mask

    def nonzero(self, node: gs.Node, facts: Facts, index: int, axes: tuple[int, int]) -> Nonzero:
        adds = np.moveaxis(self.steps(node) != 0, axes, (-2, -1))
        return Nonzero.of(np.asarray(adds.reshape(-1, *adds.shape[-2:]).any(axis=0)))

    def absorbed(self, node: gs.Node, facts: Facts, projection: Projection, label: Label) -> ConstantSlices:
        known = self.from_zero(node, facts, 0, projection.axis(label, 0))
        return known if self.operands.output_zero is None else known.only(0)

    def _sum(self, node: gs.Node, projection: Projection, values: Array) -> tuple[Array, list[int]]:
        return values @ self.steps(node).astype(np.float64), [len(projection.terms.output) - 1]

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        """None: steps lie around a zero point."""
        return iter(())

    def add_removed(self, node: gs.Node, rewriter: Rewriter, projection: Projection, left: Left) -> None:
        if self.has_stored_zero(rewriter.before):
            super().add_removed(node, rewriter, projection, left)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """As for floats: two for each product, less one for each sum."""
        out, depth = product(shape_of(node.outputs[0]) or ()), product((shape_of(node.inputs[0]) or ())[-1:])
        return out * (2 * depth - 1), out * depth


@register("QLinearMatMul")
class QLinearMatMul(MatMulInteger):
    """Steps of a given scale out."""

    weight = 3
    operands = Operands(data_zero=2, weight_zero=5, output_zero=7, scales=(1, 4, 6))
    per_output = (4, 5, 6, 7)
    foldable = False
