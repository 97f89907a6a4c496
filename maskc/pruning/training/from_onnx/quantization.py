"""Quantisation, through which gradients pass straight where a value is not cut off (Bengio et al. 2013, 1308.3432).

What was quantised stays a floating-point number without a fraction, since TensorFlow has no gradients of integers.
"""

from __future__ import annotations

import tensorflow as tf
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from maskc.pruning.training.from_onnx.contractions import matmul
from maskc.pruning.training.from_onnx.convolutions import convolution
from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, along, dtype_of, rank, size


def _along(x: Value, values: Value, axis: int) -> Value:
    """Scales or zero points, which may be one for each slice of an axis, as they lie beside what is quantised."""
    values = tf.cast(0 if values is None else values, tf.float32)
    return along(values, axis, rank(x)) if rank(values) == 1 else values


def _beside(call: Call, x: Value, values: Value) -> Value:
    axis, block = call("axis", 1), call("block_size", 0)
    if not block or values is None:
        return _along(x, values, axis)
    return tf.gather(tf.cast(values, tf.float32), tf.range(size(x, axis)) // block, axis=axis)


def _quantize(call: Call, x: Value, scale: Value, zero: Value = None) -> Value:
    asked = tensor_dtype_to_np_dtype(call("output_dtype", 0) or TensorProto.UINT8)
    kind = tf.as_dtype(asked) if zero is None else dtype_of(zero)
    if not kind.is_integer:
        raise call.unsupported("quantises to numbers with a fraction")
    scaled = tf.cast(x, tf.float32) / _beside(call, x, scale)
    rounded = scaled + tf.stop_gradient(tf.round(scaled) - scaled)
    return tf.clip_by_value(rounded + _beside(call, x, zero), float(kind.min), float(kind.max))


def _dequantize(call: Call, x: Value, scale: Value, zero: Value = None) -> Value:
    y = (tf.cast(x, tf.float32) - _beside(call, x, zero)) * _beside(call, x, scale)
    return tf.cast(y, dtype_of(scale))


def _matmul_integer(call: Call, a: Value, b: Value, zero_a: Value = None, zero_b: Value = None) -> Value:
    a, b = (tf.cast(each, tf.float32) for each in (a, b))
    return matmul(a - _along(a, zero_a, -2), b - _along(b, zero_b, -1))


def _conv_integer(call: Call, x: Value, w: Value, zero_x: Value = None, zero_w: Value = None) -> Value:
    x, w = (tf.cast(each, tf.float32) for each in (x, w))
    return convolution(call, x - _along(x, zero_x, 1), w - _along(w, zero_w, 0))


RULES = {
    "ConvInteger": Rule(_conv_integer, fixed=[2, 3]),
    "DequantizeLinear": Rule(_dequantize, fixed=[1, 2]),
    "MatMulInteger": Rule(_matmul_integer, fixed=[2, 3]),
    "QuantizeLinear": Rule(_quantize, fixed=[1, 2], scalars=True),
}
