"""Normalisations, and distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, along, rank


def _batch(call: Call, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Value:
    if call.outputs > 1:
        raise call.unsupported("computes statistics of its batch")
    factor = scale / tf.sqrt(variance + tf.cast(call("epsilon", 1e-5), variance.dtype))
    factor, shift = tf.cast(factor, x.dtype), tf.cast(bias - mean * factor, x.dtype)
    return x * along(factor, 1, rank(x)) + along(shift, 1, rank(x))


def _normalised(x: Value, axes: list[int], epsilon: float) -> tuple[Value, Value, Value]:
    """The values in float32 with mean 0 and variance 1, the mean, and the inverse of the deviation."""
    wide = tf.cast(x, tf.float32) if x.dtype.size < 4 else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    centred = wide - mean
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axes, keepdims=True) + tf.cast(epsilon, wide.dtype))
    return centred * inverse, mean, inverse


def _instance(call: Call, x: Value, scale: Value, bias: Value) -> Value:
    y, _, _ = _normalised(x, list(range(2, rank(x))), call("epsilon", 1e-5))
    return tf.cast(y, x.dtype) * along(scale, 1, rank(x)) + along(bias, 1, rank(x))


def _layer(call: Call, x: Value, scale: Value, bias: Value = None) -> list[Value]:
    axes = list(range(call("axis", -1) % rank(x), rank(x)))
    y, mean, inverse = _normalised(x, axes, call("epsilon", 1e-5))
    y = tf.cast(y, x.dtype) * scale
    return [y if bias is None else y + bias, mean, inverse]


def _lp(call: Call, x: Value) -> Value:
    axis, power = call("axis", -1), call("p", 2)
    size = tf.reduce_sum(tf.abs(x) if power == 1 else tf.square(x), axis, keepdims=True)
    return tf.math.divide_no_nan(x, size if power == 1 else tf.sqrt(size))


def _local_response(call: Call, x: Value) -> Value:
    size, channels = call("size"), np.arange(x.shape[1])
    before, after = (size - 1) // 2, size // 2
    near = (channels[:, None] - channels <= before) & (channels - channels[:, None] <= after)
    sums = tf.einsum("nc...,dc->nd...", tf.square(x), near.astype(np.float32))
    return x / (call("bias", 1.0) + call("alpha", 1e-4) / size * sums) ** call("beta", 0.75)


def _along(function: Callable[..., Value]) -> Callable[..., Any]:
    def compute(call: Call, x: Value) -> Value:
        if call.opset >= 13:
            return function(x, axis=call("axis", -1))
        rows = tf.reduce_prod(tf.shape(x)[: call("axis", 1) % rank(x)])  # up to there, and all after it
        return tf.reshape(function(tf.reshape(x, tf.stack([rows, -1])), axis=-1), tf.shape(x))

    return compute


RULES = {
    "BatchNormalization": Rule(_batch, fixed=[3, 4]),
    "InstanceNormalization": Rule(_instance),
    "LRN": Rule(_local_response),
    "LayerNormalization": Rule(_layer),
    "LogSoftmax": Rule(_along(tf.nn.log_softmax)),
    "LpNormalization": Rule(_lp),
    "Softmax": Rule(_along(tf.nn.softmax)),
}
