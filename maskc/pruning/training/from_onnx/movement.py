"""Operators that move elements, or make a shape of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, along, dtype_of, elements, rank, size, sizes
from passes.graph.tensors import Array


def _reshape(call: Call, x: Value, shape: Value = None) -> Value:
    if shape is not None and tf.get_static_value(shape) is None:
        return tf.reshape(x, shape)
    wanted = call.static(shape, "shape").tolist() if shape is not None else call("shape")
    kept = [size(x, i) if n == 0 and not call("allowzero", 0) else n for i, n in enumerate(wanted)]
    return tf.reshape(x, kept)


def _flatten(call: Call, x: Value) -> Value:
    axis = call("axis", 1)
    axis += rank(x) if axis < 0 else 0
    if x.shape.is_fully_defined():
        return tf.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return tf.reshape(x, tf.stack([tf.reduce_prod(tf.shape(x)[:axis]), tf.reduce_prod(tf.shape(x)[axis:])]))


def _squeeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = call.static(axes, "axes")
    return tf.squeeze(x, None if chosen is None else [int(axis) for axis in chosen])


def _unsqueeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = [int(axis) for axis in np.ravel(call.static(axes, "axes"))]
    for axis in sorted(axis % (rank(x) + len(chosen)) for axis in chosen):
        x = tf.expand_dims(x, axis)
    return x


def _split(call: Call, x: Value, parts: Value = None) -> Any:
    axis, chosen = call("axis", 0), call.static(parts, "split")
    if chosen is None:
        number = call("num_outputs") or call.outputs
        each = -(-x.shape[axis] // number)
        chosen = [min(each, x.shape[axis] - i * each) for i in range(number)]
    return tf.split(x, [int(n) for n in chosen], axis)


def _slice(call: Call, x: Value, *operands: Value) -> Value:
    names = ("starts", "ends", "axes", "steps")
    given = [*operands, *[None] * (4 - len(operands))]
    starts, ends, axes, steps = (call.static(value, name) for value, name in zip(given, names, strict=True))
    taken = [slice(None)] * rank(x)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = int(i if axes is None else axes[i]), int(1 if steps is None else steps[i])
        if x.shape[axis] is None:
            raise call.unsupported("takes a part of an axis whose size depends on the data")
        begin, stop, _ = slice(int(start), int(end), step).indices(x.shape[axis])
        taken[axis] = slice(begin, None if stop < 0 else stop, step)
    return tf.convert_to_tensor(x)[tuple(taken)]


def _indices(index: Value, count: Any) -> Value:
    """Indices, where negative ones count from the end."""
    index = tf.convert_to_tensor(index)
    return tf.where(index < 0, index + tf.cast(count, index.dtype), index)


def _gather(call: Call, x: Value, index: Value) -> Value:
    axis = call("axis", 0)
    return tf.gather(x, _indices(index, size(x, axis)), axis=axis)


def _grid(index: Value, axis: int, count: int) -> Value:
    """For each place of `index` all coordinates, where that along the axis is what is said there."""
    grid = list(np.meshgrid(*(np.arange(n) for n in index.shape), indexing="ij"))
    grid[axis] = tf.cast(_indices(index, count), tf.int64)
    return tf.stack(grid, -1)


def _gather_elements(call: Call, x: Value, index: Value) -> Value:
    axis = call("axis", 0) % rank(x)
    return tf.gather_nd(x, _grid(index, axis, x.shape[axis]))


def _coordinates(x: Value, index: Value, batch: int = 0) -> Value:
    return _indices(index, np.array([size(x, batch + i) for i in range(index.shape[-1])]))


def _gather_nd(call: Call, x: Value, index: Value) -> Value:
    batch = call("batch_dims", 0)
    return tf.gather_nd(x, _coordinates(x, index, batch), batch_dims=batch)


_SCATTER = {
    "none": tf.tensor_scatter_nd_update,
    "add": tf.tensor_scatter_nd_add,
    "max": tf.tensor_scatter_nd_max,
    "min": tf.tensor_scatter_nd_min,
}


def _scatter(call: Call, x: Value, places: Value, updates: Value) -> Value:
    reduction = call("reduction", "none")
    if reduction not in _SCATTER:
        raise call.unsupported(f"scatters with reduction={reduction!r}")
    return _SCATTER[reduction](x, places, updates)


def _scatter_elements(call: Call, x: Value, index: Value, updates: Value) -> Value:
    axis = call("axis", 0) % rank(x)
    return _scatter(call, x, _grid(index, axis, x.shape[axis]), updates)


def _expand(call: Call, x: Value, shape: Value) -> Value:
    known = tf.get_static_value(shape)
    if known is None or not x.shape.is_fully_defined():
        return tf.broadcast_to(x, tf.broadcast_dynamic_shape(tf.shape(x, tf.int64), shape))
    return tf.broadcast_to(x, np.broadcast_shapes(tuple(x.shape), tuple(known.tolist())))


def _pad(call: Call, x: Value, pads: Value = None, value: Value = None, axes: Value = None) -> Value:
    amounts = np.reshape(call.static(pads, "pads"), (2, -1))
    chosen = range(rank(x)) if axes is None else call.static(axes, "axes").tolist()
    before_after = np.zeros((rank(x), 2), int)
    before_after[list(chosen)] = amounts.T
    mode = call("mode", "constant")
    if mode == "constant":
        filler = call("value", 0.0) if value is None else value
        return padded(x, before_after, tf.cast(tf.reshape(filler, ()), dtype_of(x)))
    for axis, (before, after) in enumerate(before_after):
        if before or after:
            places = np.arange(x.shape[axis])[max(-before, 0) : x.shape[axis] - max(-after, 0)]
            # numpy and ONNX have the same names of modes
            x = tf.gather(x, np.pad(places, (max(before, 0), max(after, 0)), mode), axis=axis)
    return x


def padded(x: Value, amounts: Array, value: Any = 0) -> Value:
    """The value with so many elements more before and after each axis, [rank, 2], or fewer where these are negative."""
    if (amounts < 0).any():
        x = x[tuple(slice(max(-int(a), 0), n - max(-int(b), 0)) for (a, b), n in zip(amounts, x.shape, strict=True))]
    return tf.pad(x, np.maximum(amounts, 0), constant_values=value) if (amounts > 0).any() else x


def _depth_to_space(call: Call, x: Value) -> Value:
    n, c, h, w = x.shape
    block = call("blocksize")
    if call("mode", "DCR") == "DCR":
        y = tf.transpose(tf.reshape(x, (n, block, block, c // block**2, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = tf.transpose(tf.reshape(x, (n, c // block**2, block, block, h, w)), (0, 1, 4, 2, 5, 3))
    return tf.reshape(y, (n, c // block**2, h * block, w * block))


def _space_to_depth(call: Call, x: Value) -> Value:
    n, c, h, w = x.shape
    block = call("blocksize")
    y = tf.transpose(tf.reshape(x, (n, c, h // block, block, w // block, block)), (0, 3, 5, 1, 2, 4))
    return tf.reshape(y, (n, c * block**2, h // block, w // block))


def _one_hot(call: Call, index: Value, depth: Value, values: Value) -> Value:
    count, axis = int(np.ravel(call.static(depth, "depth"))[0]), call("axis", -1) % (rank(index) + 1)
    index = tf.expand_dims(_indices(index, count), axis)
    hot = tf.equal(index, tf.cast(along(np.arange(count), axis, rank(index)), index.dtype))
    return tf.where(hot, values[1], values[0])


def _trilu(call: Call, x: Value, k: Value = None) -> Value:
    upper, diagonal = call("upper", 1), int(0 if k is None else call.static(k))
    lower = np.tri(x.shape[-2], x.shape[-1], diagonal - upper, dtype=bool)
    return tf.where(~lower if upper else lower, x, tf.zeros((), dtype_of(x)))


def _constant_of_shape(call: Call, shape: Value) -> Value:
    value = call("value")
    return tf.fill(shape, tf.reshape(np.zeros(1, np.float32) if value is None else value.values, ()))


RULES = {
    "Concat": Rule(lambda call, *parts: tf.concat(parts, call("axis", 1))),
    "ConstantOfShape": Rule(_constant_of_shape, differentiable=False),
    "DepthToSpace": Rule(_depth_to_space),
    "Expand": Rule(_expand, fixed=[1]),
    "Flatten": Rule(_flatten),
    "Gather": Rule(_gather, fixed=[1]),
    "GatherElements": Rule(_gather_elements, fixed=[1]),
    "GatherND": Rule(_gather_nd, fixed=[1]),
    "OneHot": Rule(_one_hot, fixed=[0, 1]),
    "Pad": Rule(_pad, fixed=[1, 2, 3]),
    "Range": elements(tf.range, differentiable=False),
    "Reshape": Rule(_reshape, fixed=[1]),
    "ReverseSequence": Rule(
        lambda call, x, lengths: tf.reverse_sequence(x, lengths, call("time_axis", 0), call("batch_axis", 1)), fixed=[1]
    ),
    "Scatter": Rule(_scatter_elements, fixed=[1]),
    "ScatterElements": Rule(_scatter_elements, fixed=[1]),
    "ScatterND": Rule(lambda call, x, index, new: _scatter(call, x, _coordinates(x, index), new), fixed=[1]),
    "Shape": Rule(lambda call, x: sizes(x)[call("start", 0) : call("end")], differentiable=False),
    "Size": elements(lambda x: tf.reduce_prod(sizes(x)), differentiable=False),
    "Slice": Rule(_slice, fixed=[1, 2, 3, 4]),
    "SpaceToDepth": Rule(_space_to_depth),
    "Split": Rule(_split, fixed=[1]),
    "Squeeze": Rule(_squeeze, fixed=[1]),
    "Tile": Rule(lambda call, x, repeats: tf.tile(x, call.static(repeats, "repeats")), fixed=[1]),
    "Transpose": Rule(lambda call, x: tf.transpose(x, call("perm"))),
    "Trilu": Rule(_trilu, fixed=[1]),
    "Unsqueeze": Rule(_unsqueeze, fixed=[1]),
    # whose sequence of dictionaries is the tensor that it reads
    "ai.onnx.ml.ZipMap": elements(tf.identity),
}
