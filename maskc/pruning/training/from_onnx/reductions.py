"""Axes of which one number is made, and running sums along one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, dtype_of, rank


def _reduced(function: Callable[..., Value]) -> Callable[..., Any]:
    def compute(call: Call, x: Value, axes: Value = None) -> Value:
        chosen = call.static(axes, "axes")
        if chosen is None or not len(chosen):
            if call("noop_with_empty_axes", 0):
                return function(x, [], True)
            chosen = range(rank(x))
        axes, keep = [int(axis) for axis in chosen], bool(call("keepdims", 1))
        if dtype_of(x).is_bool:
            return tf.cast(function(tf.cast(x, tf.uint8), axes, keep), tf.bool)
        return function(x, axes, keep)

    return compute


def _extreme(function: Callable[..., Value]) -> Callable[..., Any]:
    def compute(call: Call, x: Value) -> Value:
        axis = call("axis", 0)
        if call("select_last_index", 0):
            place = x.shape[axis] - 1 - function(tf.reverse(x, [axis % rank(x)]), axis)
        else:
            place = function(x, axis)
        return tf.expand_dims(place, axis) if call("keepdims", 1) else place

    return compute


def _cumulated(call: Call, x: Value, axis: Value) -> Value:
    return tf.cumsum(x, int(call.static(axis)), bool(call("exclusive", 0)), bool(call("reverse", 0)))


def _top(call: Call, x: Value, k: Value = None) -> list[Value]:
    count, axis = int(call.static(k, "k").item() if k is not None else call("k")), call("axis", -1) % rank(x)
    order = [a for a in range(rank(x)) if a != axis] + [axis]
    back = [order.index(a) for a in range(rank(x))]
    sign = 1 if call("largest", 1) else -1
    values, places = tf.math.top_k(sign * tf.transpose(x, order), count)
    return [tf.transpose(sign * values, back), tf.cast(tf.transpose(places, back), tf.int64)]


_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceL1": lambda x, axes, keep: tf.reduce_sum(tf.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: tf.sqrt(tf.reduce_sum(tf.square(x), axes, keep)),
    "ReduceLogSum": lambda x, axes, keep: tf.math.log(tf.reduce_sum(x, axes, keep)),
    "ReduceLogSumExp": tf.reduce_logsumexp,
    "ReduceMax": tf.reduce_max,
    "ReduceMean": tf.reduce_mean,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceSum": tf.reduce_sum,
    "ReduceSumSquare": lambda x, axes, keep: tf.reduce_sum(tf.square(x), axes, keep),
}

RULES = {
    **{name: Rule(_reduced(function), fixed=[1]) for name, function in _REDUCE.items()},
    "ArgMax": Rule(_extreme(tf.argmax), differentiable=False),
    "ArgMin": Rule(_extreme(tf.argmin), differentiable=False),
    "CumSum": Rule(_cumulated, fixed=[1]),
    "TopK": Rule(_top, fixed=[1]),
}
