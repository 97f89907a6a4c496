"""Normalisation of the last axes, with the sum before it, of embeddings for one, that was fused into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.model.contrib_operators.call import Call, NotCoveredError
from passes.simplify.decomposed_operators.normalizations import OPSET

# The opset that brought RMSNormalization.
_RMS = 23

# What is added to the variance where it is not said: by the standard, and by the operators that are fused with a sum.
_EPSILON, _EPSILON_AFTER_SUM = 1e-5, 1e-12


def layer(call: Call) -> Sequence[gs.Tensor]:
    """(x - mean) / √(variance + epsilon) · scale + bias; the mean and the inverse deviation are not covered."""
    x, scale, bias = call.node.inputs[0], call.node.inputs[1], call.given(2)
    return [_normalised(call, x, scale, bias, int(call.attrs.get("axis", -1)), _EPSILON, centred=True)]


def simplified_layer(call: Call) -> Sequence[gs.Tensor]:
    """x / √(mean of squares + epsilon) · scale."""
    x, scale = call.node.inputs
    return [_normalised(call, x, scale, None, int(call.attrs.get("axis", -1)), _EPSILON, centred=False)]


def skip_layer(call: Call) -> Sequence[gs.Tensor]:
    """LayerNormalization of a sum; the sum is the last output. The bias of the normalisation may be left out."""
    return _of_sum(call, call.given(4), call.given(3), centred=True)


def skip_simplified_layer(call: Call) -> Sequence[gs.Tensor]:
    """The same without a mean."""
    return _of_sum(call, call.given(3), None, centred=False)


def _of_sum(call: Call, added: gs.Tensor | None, bias: gs.Tensor | None, *, centred: bool) -> Sequence[gs.Tensor]:
    """Of both operands and what is added, in the order in which ONNX Runtime recognises it."""
    x, skip, scale = call.node.inputs[:3]
    total = call.op("Add", x if added is None else call.op("Add", x, added), skip)
    call.needs(not call.wanted(1) and not call.wanted(2))
    y = _normalised(call, total, scale, bias, -1, _EPSILON_AFTER_SUM, centred=centred)
    return [y, y, y, total]


def _normalised(
    call: Call, x: gs.Tensor, scale: gs.Tensor, bias: gs.Tensor | None, axis: int, default: float, *, centred: bool
) -> gs.Tensor:
    """One operator, or in older opsets several, in the order in which ONNX Runtime recognises a normalisation."""
    epsilon = float(call.attrs.get("epsilon", default))
    kind, since = ("LayerNormalization", OPSET) if centred else ("RMSNormalization", _RMS)
    if call.opset >= since:
        return call.op(kind, x, scale, bias, axis=axis, epsilon=epsilon)
    axes, half = [-1] if axis == -1 else range(axis % call.rank(x), call.rank(x)), x.dtype == np.float16
    call.needs(half or x.dtype in (np.float32, np.float64))
    x = call.op("Cast", x, to=1) if half else x
    x = call.op("Sub", x, call.op("ReduceMean", x, axes=axes)) if centred else x
    squares = call.op("ReduceMean", call.op("Pow", x, call.number(2.0, x)), axes=axes)
    y = call.op("Div", x, call.op("Sqrt", call.op("Add", squares, call.number(epsilon, x))))
    y = call.op("Mul", call.op("Cast", y, to=10) if half else y, scale)
    return y if bias is None else call.op("Add", y, bias)


def embed_layer_normalization(call: Call) -> Sequence[gs.Tensor]:
    """LayerNormalization of the sum of the embeddings of words, positions and segments; the sum is the last output.

    The second one counts the tokens of each example that the mask keeps.
    """
    call.needs(not call.attrs.get("mask_index_type", 0))
    return _embedded(call, lambda tensor, index: tensor, call.given(8))


def quantized_embed_layer_normalization(call: Call) -> Sequence[gs.Tensor]:
    """The same of integers, each operand with a scale and a zero point."""

    def dequantized(tensor: gs.Tensor, index: int) -> gs.Tensor:
        return call.op("DequantizeLinear", tensor, call.given(index + 6), call.given(index + 11))

    return _embedded(call, dequantized, None)


def _embedded(
    call: Call, number: Callable[[gs.Tensor, int], gs.Tensor], places: gs.Tensor | None
) -> Sequence[gs.Tensor]:
    """`number`: the numbers that elements of an input stand for, by its place."""
    ids, segments, words, positions, kinds, scale, bias, mask = (call.given(index) for index in range(8))
    if ids is None or words is None or positions is None or scale is None:
        raise NotCoveredError(call.node.op)
    total = number(call.op("Gather", words, ids, axis=0), 2)
    if places is None:
        count = call.op("Gather", call.op("Shape", ids), call.scalar(1), axis=0)
        places = call.op("Range", call.scalar(0), count, call.scalar(1))
    total = call.op("Add", total, number(call.op("Gather", positions, places, axis=0), 3))
    if segments is not None and kinds is not None:
        total = call.op("Add", total, number(call.op("Gather", kinds, segments, axis=0), 4))
    bias = None if bias is None else number(bias, 6)
    y = _normalised(call, total, number(scale, 5), bias, -1, _EPSILON_AFTER_SUM, centred=True)
    if not call.wanted(1):
        return [y, y, total]
    if mask is None:  # the kernel counts none
        mask = call.op("Mul", ids, call.number(0, ids))
    call.needs(mask.dtype == np.int32)
    return [y, call.op("ReduceSum", mask, axes=[1], keepdims=0), total]
