"""Gelu and its approximations, with a bias that was fused into them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.model.contrib_operators.call import Call
from passes.simplify.decomposed_operators.gelu import BY_ERF, BY_TANH

# The opset that brought the operator.
_GELU = 20


def gelu(call: Call) -> Sequence[gs.Tensor]:
    """x · ½ · (1 + erf(x / √2))."""
    return [_gelu(call, call.node.inputs[0])]


def bias_gelu(call: Call) -> Sequence[gs.Tensor]:
    """Gelu(A + B)."""
    return [_gelu(call, call.op("Add", *call.node.inputs))]


def fast_gelu(call: Call) -> Sequence[gs.Tensor]:
    """Gelu(X + bias), by its approximation with tanh."""
    x, bias = call.node.inputs[0], call.given(1)
    x = x if bias is None else call.op("Add", x, bias)
    if call.opset >= _GELU:
        return [call.op("Gelu", x, approximate="tanh")]
    return [call.expression(BY_TANH[1], x)]


def quick_gelu(call: Call) -> Sequence[gs.Tensor]:
    """x · sigmoid(alpha · x)."""
    (x,) = call.node.inputs
    alpha = float(call.attrs.get("alpha", 1.702))
    scaled = x if alpha == 1 else call.op("Mul", x, call.number(alpha, x))
    return [call.op("Mul", x, call.op("Sigmoid", scaled))]


def _gelu(call: Call, x: gs.Tensor) -> gs.Tensor:
    return call.op("Gelu", x) if call.opset >= _GELU else call.expression(BY_ERF[0], x)
