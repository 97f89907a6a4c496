"""Arithmetic and logic on elements: sums, products, quotients, powers, choices."""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import linear_dependence
from passes.abstract_values.linear_dependence import Combination
from passes.abstract_values.polynomial import Polynomial, quotient, rest
from passes.abstract_values.scale_shift import (
    ONE,
    ZERO,
    Affine,
    ClampedAffine,
    along_one_axis,
    is_filled_with,
    keeps_shape,
    with_constant,
)
from passes.abstract_values.shape_rules import ElementRule, Elements, ShapeVectors, each, polynomials
from passes.abstract_values.slices import ConstantSlices, merge
from passes.graph.tensors import Array, dimensions, is_constant, shape_of, values_of
from passes.ops.activations import _only
from passes.ops.base import register, rules
from passes.ops.elementwise import Elementwise
from passes.ops.traits import ScaleShift
from passes.rewriting.channel_facts import Facts
from passes.rewriting.weight_scaling import AffineFolding, Fuser


class Arithmetic(ElementRule, Elementwise, ScaleShift):
    """One of the four operations; with `neutral` as its constant operand it changes nothing."""

    neutral = 0.0
    commutes = True

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        first, second = node.inputs
        for data, constant in ((first, second), (second, first))[: 2 if self.commutes else 1]:
            if is_filled_with(constant, self.neutral) and keeps_shape(shape_of(data), dimensions(constant)):
                return data
        return None

    def affine(self, node: gs.Node) -> Affine | None:
        operands = with_constant(node)
        if operands is None or (not self.commutes and is_constant(node.inputs[0])):
            return None
        if not keeps_shape(shape_of(operands[0]), operands[1].shape):
            return None  # it may add axes, or slices to an axis of one, as well
        found = along_one_axis(operands[1], node.outputs[0])
        return None if found is None else self.with_values(operands[0], *found)

    def clamped_affine(self, node: gs.Node) -> ClampedAffine | None:
        affine = self.affine(node)
        if affine is None:
            return None
        scale, shift = _only(affine.scale), _only(affine.shift)
        return None if scale is None or shift is None else ClampedAffine(affine.data, scale, shift)

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        return each(self.of_sizes, *map(vectors.of, node.inputs))

    def of_sizes(self, one: Polynomial, other: Polynomial) -> Polynomial | None:
        """What the operator makes of two integers; None where that is not known."""
        raise NotImplementedError

    def with_values(self, data: gs.Tensor, values: Array, axis: int | None) -> Affine | None:
        """The operation with this constant."""
        raise NotImplementedError


@register("Add")
class Sum(Arithmetic, AffineFolding):
    """Shifts; a scale and shift after it can become part of the shift."""

    def of_sizes(self, one: Polynomial, other: Polynomial) -> Polynomial | None:
        return one + other

    def with_values(self, data: gs.Tensor, values: Array, axis: int | None) -> Affine | None:
        return Affine(data, ONE, values, axis)

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        return fuser.into_addend(node, affine)

    def combined(self, node: gs.Node, parts: list[Combination]) -> Combination | None:
        return linear_dependence.added(parts, [1.0, 1.0])

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        return _infinite_by_one(operands)

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        first = facts.lowest(node.inputs[0])
        return first if first == -math.inf else first + facts.lowest(node.inputs[1])


@register("Sub")
class Difference(Arithmetic):
    """Shifts the other way."""

    commutes = False

    def of_sizes(self, one: Polynomial, other: Polynomial) -> Polynomial | None:
        return one - other

    def with_values(self, data: gs.Tensor, values: Array, axis: int | None) -> Affine | None:
        return Affine(data, ONE, -values, axis)

    def combined(self, node: gs.Node, parts: list[Combination]) -> Combination | None:
        return linear_dependence.added(parts, [1.0, -1.0])

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        return _infinite_by_one(operands[:1])


@register("Mul")
class Product(Arithmetic):
    """A zero factor decides alone."""

    neutral = 1.0

    def of_sizes(self, one: Polynomial, other: Polynomial) -> Polynomial | None:
        return one * other

    def with_values(self, data: gs.Tensor, values: Array, axis: int | None) -> Affine | None:
        return Affine(data, values, ZERO, axis)

    def combined(self, node: gs.Node, parts: list[Combination]) -> Combination | None:
        return linear_dependence.multiplied(*parts)

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        first, second = node.inputs
        return 0.0 if first is second or (facts.lowest(first) >= 0 and facts.lowest(second) >= 0) else -math.inf

    def scales(self, node: gs.Node, facts: Facts, place: int) -> bool:
        return True

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        return _zero_by_one(operands)


def is_product(node: gs.Node) -> bool:
    """Whether output 0 is the product of two computed operands, element by element."""
    return isinstance(rules(node), Product) and not any(is_constant(t) for t in node.inputs)


def is_sum(node: gs.Node) -> bool:
    """Whether output 0 is the sum of two computed operands, element by element."""
    return isinstance(rules(node), Sum) and not any(is_constant(t) for t in node.inputs)


@register("And")
class Conjunction(Elementwise):
    """A false operand decides alone."""

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        return _zero_by_one(operands)


@register("Div")
class Quotient(Arithmetic):
    """A zero numerator decides alone when the denominator is never zero."""

    neutral = 1.0
    commutes = False

    def of_sizes(self, one: Polynomial, other: Polynomial) -> Polynomial | None:
        """Rounded towards zero: down, where neither is negative."""
        exact = quotient(one, other)
        if exact is not None or not other.number:
            return exact
        return one // other if other.number > 0 and one.is_natural else None

    def with_values(self, data: gs.Tensor, values: Array, axis: int | None) -> Affine | None:
        return Affine(data, 1 / values, ZERO, axis) if (values != 0).all() else None

    def combined(self, node: gs.Node, parts: list[Combination]) -> Combination | None:
        return linear_dependence.divided(*parts)

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        numerator, denominator = node.inputs
        return 0.0 if facts.lowest(numerator) >= 0 and facts.lowest(denominator) > 0 else -math.inf

    def scales(self, node: gs.Node, facts: Facts, place: int) -> bool:
        denominator = node.inputs[1]
        safe = is_constant(denominator) and bool((facts.value(denominator) != 0).all())
        return place == 0 and (safe or facts.lowest(denominator) > 0)

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        return _zero_by_one(operands[:1]) if self.scales(node, facts, 0) else None


@register("Mod")
class Modulo(ElementRule, Elementwise):
    """What is left over has the sign of the divisor, or with `fmod` that of the dividend."""

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        def left(one: Polynomial, other: Polynomial) -> Polynomial | None:
            known = (other.number or 0) > 0 and (one.is_natural or not node.attrs.get("fmod", 0))
            return rest(one, other) if known else None

        return each(left, *map(vectors.of, node.inputs))


@register("Pow")
class Power(Elementwise):
    """Not negative where the exponent is even."""

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        power = facts.uniform(node.inputs[1])
        even = power is not None and float(power) % 2 == 0
        return 0.0 if even or facts.lowest(node.inputs[0]) >= 0 else -math.inf


def _zero_by_one(operands: list[ConstantSlices | None]) -> ConstantSlices:
    """Zero where any operand is."""
    given = [k for k in operands if k is not None]
    known = [k for k in given if k.mask.any()] or given[:1]
    mask = np.asarray(np.logical_or.reduce([k.only(0).mask for k in known]))
    return ConstantSlices(mask, np.zeros(mask.shape, known[0].value.dtype))


def _infinite_by_one(operands: list[ConstantSlices | None]) -> ConstantSlices | None:
    """Minus infinity where any operand is, whatever finite numbers are added."""
    infinite = [found for k in operands if k is not None and (found := k.only(-math.inf)).mask.any()]
    return functools.reduce(merge, infinite) if infinite else None


@register("Equal")
class Equal(ElementRule, Elementwise):
    """Sizes are told apart from negative numbers."""

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        def alike(one: Polynomial, other: Polynomial) -> Polynomial | None:
            apart = any((difference - Polynomial.of(1)).is_natural for difference in (one - other, other - one))
            return Polynomial.of(int(one == other)) if apart or one == other else None

        return each(alike, *map(vectors.of, node.inputs))


@register("Where")
class Where(ElementRule, Elementwise):
    """A known condition decides which of the two others counts; where they are the same, none does."""

    may_overflow = False

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        condition, *others = map(vectors.of, node.inputs)
        truth = None if condition is None else polynomials(condition)
        return each(lambda taken, one, other: one if taken.number else other, truth, *others)

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        return min(map(facts.lowest, node.inputs[1:]))

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        condition, chosen, other = node.inputs
        truth = values_of(condition) if is_constant(condition) else np.array([False, True])
        if truth.any() != truth.all():
            return None
        taken, left = (chosen, other) if truth.all() else (other, chosen)
        shape, beside = shape_of(taken), shape_of(left)
        alike = beside is not None and keeps_shape(shape, beside) and keeps_shape(shape, dimensions(condition))
        return taken if alike else None

    def combined(self, node: gs.Node, parts: list[Combination]) -> Combination | None:
        return linear_dependence.selected(*parts)

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        condition, chosen, other = operands
        if condition is None or chosen is None or other is None:
            return None
        truth, alike = condition.value.astype(bool), chosen.mask & other.mask & (chosen.value == other.value)
        mask = alike | (condition.mask & np.where(truth, chosen.mask, other.mask))
        dtype = next((k.value.dtype for k in (chosen, other) if k.mask.any()), chosen.value.dtype)
        return ConstantSlices(mask, np.where(truth, chosen.value, other.value).astype(dtype))
