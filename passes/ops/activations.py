"""Activations that ONNX Runtime makes one operator of when it loads a model: a spelled Gelu, and x · sigmoid(x)."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.affine import with_constant
from passes.ops.base import register
from passes.ops.elementwise import Elementwise


@register("Erf")
class Erf(Elementwise):
    """Element by element. ONNX Runtime makes one Gelu of x / √2 → Erf → + 1 → · x → · ½, or with ½ as a factor of x."""

    def joined(self, node: gs.Node) -> tuple[gs.Node, ...]:
        scaled, shifted = _writer(node.inputs[0]), _reader(node)
        if not _is(scaled, "Div", math.sqrt(2)) or not _is(shifted, "Add", 1.0):
            return ()
        assert scaled is not None and shifted is not None
        data, product = scaled.inputs[0], _reader(shifted)
        if product is None or product.op != "Mul":
            return ()
        other = next((t for t in product.inputs if t is not shifted.outputs[0]), None)
        if other is data:
            last = _reader(product)
            return (scaled, node, shifted, product, last) if last is not None and _is(last, "Mul", 0.5) else ()
        half = None if other is None else _writer(other)
        found = half is not None and _is(half, "Mul", 0.5) and data in half.inputs and _reader(half) is product
        return (scaled, node, shifted, half, product) if found else ()


@register("Sigmoid")
class Sigmoid(Elementwise):
    """Element by element. ONNX Runtime makes one operator of x · sigmoid(x)."""

    def joined(self, node: gs.Node) -> tuple[gs.Node, ...]:
        product = _reader(node)
        found = product is not None and product.op == "Mul" and node.inputs[0] in product.inputs
        return (node, product) if found else ()


def _writer(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None


def _reader(node: gs.Node) -> gs.Node | None:
    """The only one."""
    readers = node.outputs[0].outputs
    return readers[0] if len(readers) == 1 else None


def _is(node: gs.Node | None, op: str, value: float) -> bool:
    """Whether it is the operator with one number as its constant operand."""
    operands = None if node is None or node.op != op else with_constant(node)
    if node is None or operands is None or (op == "Div" and operands[0] is not node.inputs[0]):
        return False
    constant = np.asarray(operands[1].values)
    return constant.size == 1 and bool(np.isclose(constant.reshape(-1)[0], value, rtol=1e-4))
