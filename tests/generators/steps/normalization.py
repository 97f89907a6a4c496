"""Normalisation over the batch, channels, groups and positions."""

import math

import numpy as np

from tests.generators.builder import Builder, Value, size


def batch_norm(b: Builder, v: Value) -> Value | None:
    """BatchNormalization with shifts, and at times with zero scales."""
    if v.axis != 1:
        return None
    c = v.channels
    scale = b.positive(c)
    if b.flip(0.25):
        scale = scale * b.keep(c).astype(scale.dtype)
    shift = b.normal(c, scale=0.5) * (b.keep(c).astype(b.numpy_type) if b.flip(0.2) else 1)
    vectors = (scale, shift, b.normal(c, scale=0.5), b.positive(c))
    return b.like("BatchNormalization", v, *[b.const(x) for x in vectors], epsilon=b.pick((None, 1e-3)))


def layer_norm(b: Builder, v: Value) -> Value | None:
    """Layer normalisation over the channels: the operator, or spelled out as exporters do."""
    axes = [v.axis]
    if v.axis == v.rank - 2 and isinstance(v.shape[-1], int) and b.flip(0.3):
        axes = [v.rank - 2, v.rank - 1]
    if v.axis == 1 and v.rank > 2 and len(axes) == 1 and b.flip(0.2) and v.static:
        axes = list(range(1, v.rank))
    dims = [size(v.shape[a]) for a in axes]
    if math.prod(dims) < 2:
        return None
    ends = axes == list(range(v.rank - len(axes), v.rank))
    if b.opset >= 17 and ends and b.flip(0.6):
        operands: list[str | Value] = [v, b.const(b.positive(*dims))]
        if b.flip(0.8):
            operands.append(b.const(b.normal(*dims)))
        axis = axes[0] - v.rank if b.flip(0.6) else axes[0]
        return b.op("LayerNormalization", operands, v.shape, v.axis, axis=axis, epsilon=1e-3)
    mean = b.reduce("ReduceMean", v, axes, True)
    centred = b.like("Sub", v, mean)
    square = b.like("Pow", centred, b.scalar(2.0)) if b.flip(0.5) else b.like("Mul", centred, centred)
    spread = b.reduce("ReduceMean", square, axes, True)
    root = b.like("Sqrt", b.like("Add", spread, b.scalar(1e-3)))
    y = b.like("Div", centred, root)
    if b.flip(0.8):
        y = b.like("Mul", y, b.per_channel(y, b.positive(v.channels)))
        y = b.like("Add", y, b.per_channel(y, b.normal(v.channels)))
    return y


def rms_norm(b: Builder, v: Value) -> Value | None:
    """Root mean square normalisation over the last axis: the operator, or spelled out."""
    if v.axis != v.rank - 1:
        return None
    if b.opset >= 23 and b.flip(0.5):
        return b.like("RMSNormalization", v, b.const(b.positive(v.channels)), axis=-1, epsilon=1e-3)
    spread = b.reduce("ReduceMean", b.like("Mul", v, v), [v.axis], True)
    root = b.like("Sqrt", b.like("Add", spread, b.scalar(1e-2)))
    y = b.like("Mul", v, b.like("Reciprocal", root)) if b.flip(0.5) else b.like("Div", v, root)
    return b.like("Mul", y, b.per_channel(y, b.positive(v.channels)))


def instance_norm(b: Builder, v: Value) -> Value | None:
    """InstanceNormalization: the statistics of each channel over its own positions."""
    if not v.is_image or math.prod(size(d) for d in v.shape[2:]) < 4:
        return None
    vectors = b.const(b.positive(v.channels)), b.const(b.normal(v.channels))
    return b.like("InstanceNormalization", v, *vectors, epsilon=1e-2)


def group_norm(b: Builder, v: Value) -> Value | None:
    """GroupNormalization: the operator, or the reshape around InstanceNormalization that exporters write."""
    if v.axis != 1 or v.rank != 4 or not v.static:
        return None
    c = v.channels
    groups = b.pick([g for g in range(1, c + 1) if c % g == 0])
    if c // groups * size(v.shape[2]) * size(v.shape[3]) < 4:
        return None
    if b.opset >= 21 and b.flip(0.6):
        vectors = b.const(b.positive(c)), b.const(b.normal(c))
        return b.like("GroupNormalization", v, *vectors, num_groups=groups, epsilon=1e-2)
    flat = b.reshape(v, [v.shape[0], groups, c // groups * size(v.shape[2]) * size(v.shape[3])], 1)
    ones, zeros = np.ones(groups, b.numpy_type), np.zeros(groups, b.numpy_type)
    y = b.like("InstanceNormalization", flat, b.const(ones), b.const(zeros), epsilon=1e-2)
    y = b.reshape(y, v.shape, 1)
    y = b.like("Mul", y, b.const(b.positive(c, 1, 1)))
    return b.like("Add", y, b.const(b.normal(c, 1, 1)))


def lrn(b: Builder, v: Value) -> Value | None:
    """Local response normalisation, which reads neighbouring channels."""
    if not v.is_image or v.rank != 4:
        return None
    return b.like("LRN", v, size=b.pick((1, 3, 5)), alpha=0.5, beta=0.75, bias=1.0)


def lp_norm(b: Builder, v: Value) -> Value | None:
    """Division by the norm over the channels, kept away from zero by a constant channel."""
    safe = b.like("Add", b.like("Abs", v), b.scalar(0.5))
    return b.like("LpNormalization", safe, axis=v.axis, p=b.pick((1, 2)))


def softmax(b: Builder, v: Value) -> Value | None:
    """Softmax over the channels or over another static axis."""
    axis = v.axis if b.flip(0.7) else b.some(1, v.rank - 1)
    if b.opset < 13 and axis != v.rank - 1:
        return None
    written = axis - v.rank if b.opset >= 11 and b.flip(0.5) else axis
    if axis == v.axis and b.flip(0.3):
        left_out = np.where(b.keep(v.channels, "mixed"), 0, -np.inf).astype(b.numpy_type)
        return b.like("Softmax", b.like("Add", v, b.per_channel(v, left_out)), axis=written)
    return b.like(b.pick(("Softmax", "Softmax", "LogSoftmax")), v, axis=written)
