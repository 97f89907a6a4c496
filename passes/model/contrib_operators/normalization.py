"""Normalisation of the last axes, with the sum before it, of embeddings for one, that was fused into it."""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.model.contrib_operators.call import Call, NotCoveredError

#: the opset that brought LayerNormalization
LAYER = 17

# That which brought RMSNormalization.
_RMS = 23

# What is added to the variance where it is not said: by the standard, and by the operators that are fused with a sum.
_EPSILON, _EPSILON_AFTER_SUM = 1e-5, 1e-12


def layer(call: Call) -> Sequence[gs.Tensor]:
    """(x - mean) / √(variance + epsilon) · scale + bias; the mean and the inverse deviation are not covered."""
    x, scale, bias = call.node.inputs[0], call.node.inputs[1], call.given(2)
    return [_layer(call, x, scale, bias, int(call.attrs.get("axis", -1)), _EPSILON)]


def simplified_layer(call: Call) -> Sequence[gs.Tensor]:
    """x / √(mean of squares + epsilon) · scale."""
    x, scale = call.node.inputs
    return [_simplified_layer(call, x, scale, int(call.attrs.get("axis", -1)), _EPSILON)]


def skip_layer(call: Call) -> Sequence[gs.Tensor]:
    """LayerNormalization of a sum; the sum is the last output. The bias of the normalisation may be left out."""
    total = _sum(call, call.given(4))
    call.needs(not call.wanted(1) and not call.wanted(2))
    y = _layer(call, total, call.node.inputs[2], call.given(3), -1, _EPSILON_AFTER_SUM)
    return [y, y, y, total]


def skip_simplified_layer(call: Call) -> Sequence[gs.Tensor]:
    """The same without a mean."""
    total = _sum(call, call.given(3))
    call.needs(not call.wanted(1) and not call.wanted(2))
    y = _simplified_layer(call, total, call.node.inputs[2], -1, _EPSILON_AFTER_SUM)
    return [y, y, y, total]


def _sum(call: Call, bias: gs.Tensor | None) -> gs.Tensor:
    """Of both operands and a bias, in the order in which ONNX Runtime recognises it."""
    x, skip = call.node.inputs[:2]
    return call.op("Add", x if bias is None else call.op("Add", x, bias), skip)


def _layer(call: Call, x: gs.Tensor, scale: gs.Tensor, bias: gs.Tensor | None, axis: int, default: float) -> gs.Tensor:
    epsilon = float(call.attrs.get("epsilon", default))
    if call.opset >= LAYER:
        return call.op("LayerNormalization", x, scale, bias, axis=axis, epsilon=epsilon)
    axes, dtype = _axes(call, x, axis), x.dtype
    x = _in_single_precision(call, x)
    centred = call.op("Sub", x, call.op("ReduceMean", x, axes=axes))
    y = call.op("Div", centred, _root(call, centred, axes, epsilon))
    y = call.op("Mul", _back(call, y, dtype), scale)
    return y if bias is None else call.op("Add", y, bias)


def _simplified_layer(call: Call, x: gs.Tensor, scale: gs.Tensor, axis: int, default: float) -> gs.Tensor:
    epsilon = float(call.attrs.get("epsilon", default))
    if call.opset >= _RMS:
        return call.op("RMSNormalization", x, scale, axis=axis, epsilon=epsilon)
    axes, dtype = _axes(call, x, axis), x.dtype
    x = _in_single_precision(call, x)
    y = call.op("Div", x, _root(call, x, axes, epsilon))
    return call.op("Mul", _back(call, y, dtype), scale)


def _root(call: Call, x: gs.Tensor, axes: Sequence[int], epsilon: float) -> gs.Tensor:
    """√(mean of squares + epsilon), in the order in which ONNX Runtime recognises a normalisation."""
    squares = call.op("ReduceMean", call.op("Pow", x, call.number(2.0, x)), axes=axes)
    return call.op("Sqrt", call.op("Add", squares, call.number(epsilon, x)))


def _axes(call: Call, x: gs.Tensor, axis: int) -> Sequence[int]:
    return [-1] if axis == -1 else range(axis % call.rank(x), call.rank(x))


def _in_single_precision(call: Call, x: gs.Tensor) -> gs.Tensor:
    call.needs(x.dtype in (np.float16, np.float32, np.float64))
    return call.op("Cast", x, to=1) if x.dtype == np.float16 else x


def _back(call: Call, y: gs.Tensor, dtype: object) -> gs.Tensor:
    return call.op("Cast", y, to=10) if dtype == np.float16 else y


def embed_layer_normalization(call: Call) -> Sequence[gs.Tensor]:
    """LayerNormalization of the sum of the embeddings of words, positions and segments; the sum is the last output.

    The second one counts the tokens of each example that the mask keeps.
    """
    ids, segments, words, positions, kinds = (call.given(index) for index in range(5))
    scale, bias, mask, places = (call.given(index) for index in range(5, 9))
    if ids is None or words is None or positions is None or scale is None:
        raise NotCoveredError(call.node.op)
    call.needs(not call.attrs.get("mask_index_type", 0))
    total = call.op("Gather", words, ids, axis=0)
    if places is None:
        count = call.op("Gather", call.op("Shape", ids), call.scalar(1), axis=0)
        places = call.op("Range", call.scalar(0), count, call.scalar(1))
    total = call.op("Add", total, call.op("Gather", positions, places, axis=0))
    if segments is not None and kinds is not None:
        total = call.op("Add", total, call.op("Gather", kinds, segments, axis=0))
    y = _layer(call, total, scale, bias, -1, _EPSILON_AFTER_SUM)
    if not call.wanted(1):
        return [y, y, total]
    if mask is None:  # the kernel counts none
        mask = call.op("Mul", ids, call.number(0, ids))
    call.needs(mask.dtype == np.int32)
    return [y, call.op("ReduceSum", mask, axes=[1], keepdims=0), total]
