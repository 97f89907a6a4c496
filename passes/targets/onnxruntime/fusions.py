"""Operators that ONNX Runtime makes one of when it loads a model: Gelu, x · sigmoid(x), normalisations."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from passes.abstract_values.kernel_shape import Blocks
from passes.graph.expression_match import ANY, Expression, Gelu, X, depth, nodes_of
from passes.ops.base import register
from passes.ops.elementwise import Elementwise


class Spelled(Elementwise):
    """Element by element, and the one operator by which others are found that are one together with it."""

    expressions: tuple[Expression, ...]

    def joined(self, node: gs.Node) -> tuple[gs.Node, ...]:
        for expression in self.expressions:
            last: gs.Node | None = node
            for _ in range(depth(expression, node.op)):
                readers = last.outputs[0].outputs if last is not None else []
                last = readers[0] if len(readers) == 1 else None
            found = None if last is None else nodes_of(expression, last.outputs[0])
            if found is not None and any(n is node for n in found):
                return found
        return ()


def _gelu(gate: Expression) -> tuple[Expression, Expression]:
    return ("Mul", ("Mul", X, ("Add", gate, 1.0)), 0.5), ("Mul", ("Mul", X, 0.5), ("Add", gate, 1.0))


@register("Erf")
class Erf(Spelled):
    """Element by element. ONNX Runtime makes one operator of a Gelu that is spelled with it, and keeps blocks."""

    expressions = _gelu(("Erf", ("Div", X, math.sqrt(2))))
    gelu = Gelu((0.0, math.sqrt(0.5)), {}, expressions[0])

    def in_blocks(self, node: gs.Node) -> Blocks:
        return "always" if self.joined(node) else "never"


_ROOT, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@register("Tanh")
class Tanh(Spelled):
    """Element by element. ONNX Runtime makes one operator of an approximated Gelu with it, and keeps no blocks."""

    expressions = (
        _gelu(("Tanh", ("Mul", ("Add", X, ("Mul", ("Pow", X, 3.0), _CUBIC)), _ROOT)))[1],
        _gelu(("Tanh", ("Mul", ("Mul", X, _ROOT), ("Add", ("Mul", ("Mul", X, _CUBIC), X), 1.0))))[1],
    )
    gelu = Gelu((0.0, _ROOT, 0.0, _ROOT * _CUBIC), {"approximate": "tanh"}, None)

    def in_blocks(self, node: gs.Node) -> Blocks:
        return "never" if self.joined(node) else super().in_blocks(node)

    def slowness(self, node: gs.Node) -> float:
        return 8.0 if self.joined(node) else super().slowness(node)


@register("Sigmoid")
class Sigmoid(Spelled):
    """Element by element. ONNX Runtime makes one operator of x · sigmoid(x)."""

    expressions = (("Mul", X, ("Sigmoid", X)),)


def _normalised(data: Expression) -> tuple[Expression, Expression]:
    """The data over the root of their mean square, and a number more, times a scale."""
    root = ("Sqrt", ("Add", ("ReduceMean", ("Pow", data, 2.0)), ANY))
    return ("Mul", ("Div", data, root), ANY), ("Mul", ("Mul", data, ("Div", 1.0, root)), ANY)


@register("Sqrt")
class Sqrt(Spelled):
    """Element by element. ONNX Runtime makes one operator of a normalisation that divides by it."""

    expressions = (
        ("Add", _normalised(("Sub", X, ("ReduceMean", X)))[0], ANY),
        *_normalised(X),
    )
