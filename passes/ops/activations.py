"""Activations that are clamped scales and shifts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.polynomial import maximum, minimum
from passes.abstract_values.scale_shift import ClampedAffine, along_one_axis, keeps_shape, with_constant
from passes.abstract_values.shape_rules import ElementRule, Elements, ShapeVectors, each
from passes.graph.tensors import Array, is_constant, numpy_dtype, operand, present, shape_of
from passes.ops.base import register
from passes.ops.elementwise import Elementwise
from passes.ops.traits import ScaleShift
from passes.rewriting.channel_facts import Facts


def _only(values: Array) -> float | None:
    """The number that all elements are; None if they differ."""
    first = values.reshape(-1)[:1]
    return float(first[0]) if first.size and (values == first[0]).all() else None


@register("Relu")
class Rectifier(Elementwise, ScaleShift):
    """Not below zero."""

    def clamped_affine(self, node: gs.Node) -> ClampedAffine | None:
        return ClampedAffine(node.inputs[0], low=0.0)


@register("Elu", "Celu")
class ExponentialUnit(Elementwise):
    """Not below what it falls off to."""

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        alpha = float(node.attrs.get("alpha", 1.0))
        return -alpha if alpha >= 0 else -math.inf


@register("HardSigmoid")
class HardSigmoid(Elementwise, ScaleShift):
    """A ramp from 0 to 1."""

    stands_for = 3  # a scale, a shift and a clip

    def clamped_affine(self, node: gs.Node) -> ClampedAffine | None:
        scale, shift = node.attrs.get("alpha", np.float32(0.2)), node.attrs.get("beta", np.float32(0.5))
        return ClampedAffine(node.inputs[0], float(scale), float(shift), 0.0, 1.0)


@register("HardSwish")
class HardSwish(Elementwise):
    """The product of its operand and a ramp of it."""

    stands_for = 4  # the ramp and the product


@register("Min", "Max")
class Extremum(ElementRule, Elementwise, ScaleShift):
    """The smallest or the largest of its operands; with one number beside the data, a bound."""

    may_overflow = False

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        first, *others = map(vectors.of, node.inputs)
        choose = minimum if node.op == "Min" else maximum
        for other in others:
            first = each(choose, first, other)
        return first

    def clamped_affine(self, node: gs.Node) -> ClampedAffine | None:
        operands = with_constant(node)
        found = None if operands is None else along_one_axis(operands[1], node.outputs[0])
        if operands is None or found is None or not keeps_shape(shape_of(operands[0]), operands[1].shape):
            return None
        bound = _only(found[0])
        return None if bound is None else ClampedAffine(operands[0], **{"high" if node.op == "Min" else "low": bound})


@register("Clip")
class Clip(Elementwise, ScaleShift):
    """Between two bounds, which are operands from opset 11 on."""

    def contradiction(self, node: gs.Node) -> str:
        for _, tensor in present(node.inputs[1:3]):
            if is_constant(tensor) and math.prod(tensor.shape) != 1:
                return f"its bound `{tensor.name}` has shape {list(tensor.shape)} and must be one number"
        return ""

    def clamped_affine(self, node: gs.Node) -> ClampedAffine | None:
        bounds = [node.attrs.get("min", -math.inf), node.attrs.get("max", math.inf)]
        for place, tensor in present(node.inputs[1:3]):
            if not is_constant(tensor):
                return None
            bounds[place] = float(np.asarray(tensor.values).reshape(()))
        low, high = map(float, bounds)
        return ClampedAffine(node.inputs[0], low=low, high=high) if low <= high else None

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        """Not below the lower bound; where the bounds cross, the upper one counts."""

        def bound(place: int, name: str, otherwise: float) -> float:
            if (tensor := operand(node, place)) is not None:
                return facts.lowest(tensor)
            given = node.attrs.get(name)
            return otherwise if given is None else float(numpy_dtype(node.outputs[0]).type(given))

        return min(max(facts.lowest(node.inputs[0]), bound(1, "min", -math.inf)), bound(2, "max", math.inf))

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        if "min" in node.attrs or "max" in node.attrs or operands[0] is None:
            return super().fold(node, facts, operands)
        low, high = [*operands[1:], None, None][:2]
        return np.asarray(np.clip(operands[0], low, high))
