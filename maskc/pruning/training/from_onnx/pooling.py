"""Windows of which one number is made, and whole maps of which one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.pruning.training.from_onnx.convolutions import channels_last, channels_second, window_pads
from maskc.pruning.training.from_onnx.movement import padded
from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, dtype_of, elements, rank


def _pooled(call: Call, x: Value, kind: str, filler: Any) -> tuple[Value, Value]:
    """The maximum or the mean over each window, and the share of each window that counts, [*places]."""
    window, axes = call("kernel_shape"), rank(x) - 2
    strides, dilations = call("strides", [1] * axes), call("dilations", [1] * axes)
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    pads = window_pads(call, reach, strides, x.shape[2:])
    within = np.ones([n + a + b for n, (a, b) in zip(x.shape[2:], pads, strict=True)])
    if not call("count_include_pad", 0):
        within = np.pad(np.ones(x.shape[2:]), pads)
    more = np.zeros((axes, 2), int)
    if call("ceil_mode", 0) and call("auto_pad", "NOTSET") in ("NOTSET", ""):
        for a, (n, k, s) in enumerate(zip(within.shape, reach, strides, strict=True)):
            count = -(-(n - k) // s) + 1
            count -= (count - 1) * s >= n - pads[a][1]  # a window begins before the padding behind
            more[a, 1] = max((count - 1) * s + k - n, 0)
    pads, within = pads + more, np.pad(within, more)

    def pool(values: Value, kind: str) -> Value:
        if max(dilations) > 1 or any(s > k for s, k in zip(strides, window, strict=True)):
            y = tf.nn.pool(values, window, kind, padding="VALID", dilations=dilations)
            return y[(slice(None), *(slice(None, None, s) for s in strides))]
        return tf.nn.pool(values, window, kind, strides=strides, padding="VALID")

    y = pool(padded(channels_last(x), np.array([[0, 0], *pads, [0, 0]]), filler), kind)
    return channels_second(y), pool(within[None, ..., None].astype(np.float32), "AVG")[0, ..., 0]


def _max_pool(call: Call, x: Value) -> Value:
    if call.outputs > 1:
        raise call.unsupported("says where the largest elements lie")
    number = dtype_of(x)
    data = x if number.is_floating else tf.cast(x, tf.float32)
    return tf.cast(_pooled(call, data, "MAX", data.dtype.min)[0], number)


def _average_pool(call: Call, x: Value) -> Value:
    mean, share = _pooled(call, x, "AVG", 0)
    return mean / tf.cast(share, mean.dtype)


def _over_map(function: Callable[..., Value]) -> Rule:
    return elements(lambda x: function(x, list(range(2, rank(x))), keepdims=True))


RULES = {
    "AveragePool": Rule(_average_pool),
    "GlobalAveragePool": _over_map(tf.reduce_mean),
    "GlobalMaxPool": _over_map(tf.reduce_max),
    "MaxPool": Rule(_max_pool),
}
