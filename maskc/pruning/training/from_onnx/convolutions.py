"""Convolutions and pooling, of channels that lie second, by kernels of TensorFlow for channels that lie last.

Graph optimisation takes away the transpositions between neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.pruning.training.from_onnx.movement import padded
from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, along, dtype_of, elements, rank
from passes.graph.tensors import Array


def channels_last(x: Value) -> Value:
    """The value with the axis of channels, which is the second, as the last."""
    return tf.transpose(x, (0, *range(2, rank(x)), 1))


def channels_second(x: Value) -> Value:
    """The value with the last axis as the second."""
    return tf.transpose(x, (0, rank(x) - 1, *range(1, rank(x) - 1)))


def window_pads(call: Call, window: Sequence[int], strides: Sequence[int], lengths: Sequence[int]) -> Array:
    """Places before and after each axis, [axes, 2], as attributes say; `window` is as wide as it reaches."""
    auto = call("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return np.reshape(call("pads", [0] * 2 * len(window)), (2, -1)).T
    if auto == "VALID":
        return np.zeros((len(window), 2), int)
    total = [max((-(-n // s) - 1) * s + w - n, 0) for n, s, w in zip(lengths, strides, window, strict=True)]
    pads = np.array([[t // 2, t - t // 2] for t in total])
    return pads if auto == "SAME_UPPER" else pads[:, ::-1]


def _dilated(kernel: Value, dilations: Sequence[int]) -> Value:
    """A kernel [*window, ...] with zeros between its taps."""
    for axis, step in enumerate(dilations):
        if step > 1:
            shape = list(kernel.shape)
            taps = tf.expand_dims(kernel, axis + 1)
            spread = tf.pad(taps, [(0, step - 1 if a == axis + 1 else 0) for a in range(len(shape) + 1)])
            wide = tf.reshape(spread, [*shape[:axis], shape[axis] * step, *shape[axis + 1 :]])
            kernel = tf.gather(wide, np.arange((shape[axis] - 1) * step + 1), axis=axis)
    return kernel


def _convolve(x: Value, w: Value, strides: Sequence[int], pads: Array, dilations: Sequence[int], groups: int) -> Value:
    """The convolution of x [batch, channels, *places] with w [out, channels / groups, *window]."""
    axes = rank(x) - 2
    if axes == 1:
        plane = _convolve(
            x[:, :, None], w[:, :, None], [1, *strides], np.array([[0, 0], *pads]), [1, *dilations], groups
        )
        return plane[:, :, 0]
    kernel, data = tf.transpose(w, (*range(2, axes + 2), 1, 0)), channels_last(x)
    around = [[0, 0], *pads.tolist(), [0, 0]]
    if axes == 2 and groups > 1 and w.shape[1] == 1:
        filters = tf.reshape(_dilated(kernel, dilations), (*_reach(w.shape[2:], dilations), groups, -1))
        step = strides if len({*strides}) == 1 else [1, 1]  # the kernel has the same in both directions
        y = tf.nn.depthwise_conv2d(data, filters, [1, *step, 1], around)
        return channels_second(y if step == strides else _every(y, strides))
    data = padded(data, np.array(around))
    step = strides if max(dilations) == 1 else [1] * axes  # TensorFlow has not both
    # Gradients of grouped convolutions are not on every processor.
    parts = [
        tf.nn.convolution(a, b, step, "VALID", "NHWC" if axes == 2 else "NDHWC", dilations)
        for a, b in zip(tf.split(data, groups, -1), tf.split(kernel, groups, -1), strict=True)
    ]
    y = tf.concat(parts, -1) if groups > 1 else parts[0]
    return channels_second(y if step == strides else _every(y, strides))


def _every(y: Value, strides: Sequence[int]) -> Value:
    """The places of y [batch, *places, channels], so many apart on each axis."""
    return y[(slice(None), *(slice(None, None, step) for step in strides))]


def _reach(window: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [(n - 1) * d + 1 for n, d in zip(window, dilations, strict=True)]


def _with_bias(y: Value, bias: Value) -> Value:
    return y if bias is None else y + along(bias, 1, rank(y))


def _windows(call: Call, x: Value) -> tuple[list[int], list[int], int]:
    axes = rank(x) - 2
    if axes not in (1, 2, 3):
        raise call.unsupported(f"is a convolution over {axes} axes")
    return list(call("strides", [1] * axes)), list(call("dilations", [1] * axes)), call("group", 1)


def convolution(call: Call, x: Value, w: Value, bias: Value = None) -> Value:
    """The convolution of x [batch, channels, *places] with w [out, channels / groups, *window]."""
    strides, dilations, groups = _windows(call, x)
    pads = window_pads(call, _reach(w.shape[2:], dilations), strides, x.shape[2:])
    return _with_bias(_convolve(x, w, strides, pads, dilations, groups), bias)


def _transposed(call: Call, x: Value, w: Value, bias: Value = None) -> Value:
    """Windows of w [channels, out / groups, *window] around each place of x [batch, channels, *places], added up."""
    strides, dilations, groups = _windows(call, x)
    axes, window = len(strides), _reach(w.shape[2:], dilations)
    more = call("output_padding", [0] * axes)
    whole = [(n - 1) * s + k for n, s, k in zip(x.shape[2:], strides, window, strict=True)]
    wanted = call("output_shape")
    if wanted is not None or call("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)] if wanted is None else wanted[-axes:]
        total = np.add(whole, more) - wanted
        less = np.maximum(total, 0)
        less = less // 2 if call("auto_pad", "NOTSET") == "SAME_UPPER" else less - less // 2
        pads = np.stack([less, total - less], 1)
    else:
        pads = window_pads(call, window, strides, x.shape[2:])
    filters = _dilated(tf.transpose(w, (*range(2, axes + 2), 1, 0)), dilations)  # [*window, out / groups, channels]
    inputs = tf.split(channels_last(x), groups, -1)
    size = [x.shape[0] if x.shape[0] is not None else tf.shape(x)[0], *whole, w.shape[1]]
    parts = [
        tf.nn.conv_transpose(part, kernel, size, strides, "VALID")
        for part, kernel in zip(inputs, tf.split(filters, groups, -1), strict=True)
    ]
    shown = -pads
    shown[:, 1] += more
    y = channels_second(tf.concat(parts, -1))
    return _with_bias(padded(y, np.array([[0, 0], [0, 0], *shown])), bias)


def _pooled(call: Call, x: Value, kind: str, filler: Any) -> tuple[Value, Value]:
    """The maximum or the mean over each window, and the share of each window that counts, [*places]."""
    window, axes = call("kernel_shape"), rank(x) - 2
    strides, dilations = call("strides", [1] * axes), call("dilations", [1] * axes)
    reach = _reach(window, dilations)
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
            return _every(y, strides)
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
    "Conv": Rule(convolution),
    "ConvTranspose": Rule(_transposed),
    "GlobalAveragePool": _over_map(tf.reduce_mean),
    "GlobalMaxPool": _over_map(tf.reduce_max),
    "MaxPool": Rule(_max_pool),
}
