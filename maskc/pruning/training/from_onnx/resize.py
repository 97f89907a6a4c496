"""Resizing: along each axis every element is a weighted sum of a few.

The weights are what ONNX Runtime makes of an identity matrix, so that every mode is as it is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from onnx import helper

from maskc.frontend.one_node import one_node
from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, rank
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from passes.graph.tensors import Array


def _resize(call: Call, x: Value, *operands: Value) -> Value:
    if (
        call("coordinate_transformation_mode") == "tf_crop_and_resize"
        or call("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise call.unsupported("crops what it resizes, or keeps its aspect")
    known = [None if operand is None else call.static(operand) for operand in operands]
    by_scale = [
        operand for operand in (known if len(known) == 1 else known[1:2]) if operand is not None and operand.size
    ]
    amounts = by_scale[0] if by_scale else call("scales") if not known else known[2]
    axes = call("axes") or range(rank(x))
    for axis, amount in zip(axes, np.asarray(amounts).tolist(), strict=True):
        if amount != (1 if isinstance(amount, float) else x.shape[axis]):
            x = _along(x, axis % rank(x), _weights(call, x.shape[axis], amount))
    return x


def _along(x: Value, axis: int, weights: Array) -> Value:
    order = [a for a in range(rank(x)) if a != axis] + [axis]
    y = tf.matmul(tf.transpose(x, order), tf.cast(weights, x.dtype))
    return tf.transpose(y, [order.index(a) for a in range(rank(x))])


def _weights(call: Call, size: int, amount: float) -> Array:
    """What each element of an axis adds to each of the resized axis, float32 [size, resized]; a float is a scale."""
    left = ("axes", "keep_aspect_ratio_policy", "scales")
    attributes: dict[str, Any] = {name: value for name, value in call.node.attrs.items() if name not in left}
    known = "scales" if isinstance(amount, float) else "sizes"
    if call.node.op == "Upsample" and call.opset < 9:
        attributes, names = {**attributes, "scales": [1.0, 1.0, 1.0, amount]}, ["x"]
    elif call.node.op == "Upsample" or call.opset < 11:
        names = ["x", "scales"]
    else:
        names = ["x", "empty", "scales"] if known == "scales" else ["x", "empty", "empty", "sizes"]
    values: dict[str, Array] = {
        "scales": np.array([1, 1, 1, amount], np.float32),
        "sizes": np.array([size, 1, 1, amount], np.int64),
        "empty": np.zeros(0, np.float32),
    }
    node = helper.make_node(call.node.op, names, ["y"], **attributes)
    model = one_node(node, [size, 1, 1, size], {name: values[name] for name in {*names} - {"x"}}, call.opset)
    made = OnnxRuntimeSession(model).run({"x": np.eye(size, dtype=np.float32).reshape(size, 1, 1, size)})
    return np.asarray(made["y"]).reshape(size, -1)


RULES = {"Resize": Rule(_resize, fixed=[1, 2, 3]), "Upsample": Rule(_resize, fixed=[1])}
