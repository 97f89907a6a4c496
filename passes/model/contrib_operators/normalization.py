"""Normalisation of the last axes, with the sum before it that was fused into it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.model.contrib_operators.call import Call

#: the opset that brought LayerNormalization
LAYER = 17

# That which brought RMSNormalization.
_RMS = 23


def layer(call: Call) -> Sequence[gs.Tensor]:
    """(x - mean) / √(variance + epsilon) · scale + bias; the mean and the inverse deviation are not covered."""
    x, scale, bias = call.node.inputs[0], call.node.inputs[1], call.given(2)
    return [layer_normalization(call, x, scale, bias, int(call.attrs.get("axis", -1)))]


def simplified_layer(call: Call) -> Sequence[gs.Tensor]:
    """x / √(mean of squares + epsilon) · scale."""
    return [_simplified_layer(call, call.node.inputs[0], call.node.inputs[1], int(call.attrs.get("axis", -1)))]


def skip_layer(call: Call) -> Sequence[gs.Tensor]:
    """LayerNormalization of a sum; the sum is the last output. The bias of the normalisation may be left out."""
    total = _sum(call, call.given(4))
    call.needs(not call.wanted(1) and not call.wanted(2))
    y = layer_normalization(call, total, call.node.inputs[2], call.given(3), -1)
    return [y, y, y, total]


def skip_simplified_layer(call: Call) -> Sequence[gs.Tensor]:
    """The same without a mean."""
    total = _sum(call, call.given(3))
    call.needs(not call.wanted(1) and not call.wanted(2))
    y = _simplified_layer(call, total, call.node.inputs[2], -1)
    return [y, y, y, total]


def _sum(call: Call, bias: gs.Tensor | None) -> gs.Tensor:
    x, skip = call.node.inputs[:2]
    total = call.op("Add", x, skip)
    return total if bias is None else call.op("Add", total, bias)


def layer_normalization(call: Call, x: gs.Tensor, scale: gs.Tensor, bias: gs.Tensor | None, axis: int) -> gs.Tensor:
    epsilon = float(call.attrs.get("epsilon", np.float32(1e-5)))
    if call.opset >= LAYER:
        return call.op("LayerNormalization", x, scale, bias, axis=axis, epsilon=epsilon)
    axes, dtype = _axes(call, x, axis), x.dtype
    x = _in_single_precision(call, x)
    centred = call.op("Sub", x, call.reduce_mean(x, axes))
    y = call.op("Div", centred, _root(call, centred, axes, epsilon))
    y = call.op("Mul", _back(call, y, dtype), scale)
    return y if bias is None else call.op("Add", y, bias)


def _simplified_layer(call: Call, x: gs.Tensor, scale: gs.Tensor, axis: int) -> gs.Tensor:
    epsilon = float(call.attrs.get("epsilon", np.float32(1e-5)))
    if call.opset >= _RMS:
        return call.op("RMSNormalization", x, scale, axis=axis, epsilon=epsilon)
    axes, dtype = _axes(call, x, axis), x.dtype
    x = _in_single_precision(call, x)
    y = call.op("Div", x, _root(call, x, axes, epsilon))
    return call.op("Mul", _back(call, y, dtype), scale)


def _root(call: Call, x: gs.Tensor, axes: Sequence[int], epsilon: float) -> gs.Tensor:
    """√(mean of squares + epsilon), in the order in which ONNX Runtime recognises a normalisation."""
    squares = call.reduce_mean(call.op("Pow", x, call.number(2.0, x)), axes)
    return call.op("Sqrt", call.op("Add", squares, call.number(epsilon, x)))


def _axes(call: Call, x: gs.Tensor, axis: int) -> Sequence[int]:
    return [-1] if axis == -1 else range(axis % call.rank(x), call.rank(x))


def _in_single_precision(call: Call, x: gs.Tensor) -> gs.Tensor:
    call.needs(x.dtype in (np.float16, np.float32, np.float64))
    return call.op("Cast", x, to=1) if x.dtype == np.float16 else x


def _back(call: Call, y: gs.Tensor, dtype: object) -> gs.Tensor:
    return call.op("Cast", y, to=10) if dtype == np.float16 else y
