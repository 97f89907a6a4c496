"""Branches, and loops written out, step by step."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from maskc.pruning.training.from_onnx.rule import Call, Rule, Value


def _if(call: Call, condition: Value) -> list[Value]:
    branches = call("then_branch"), call("else_branch")
    known = tf.get_static_value(condition)
    if known is not None:
        return call.run(branches[0 if known.item() else 1], [])
    then, other = (lambda body=body: [tf.convert_to_tensor(y) for y in call.run(body, [])] for body in branches)
    return list(tf.cond(tf.reshape(condition, ()), then, other))


def _loop(call: Call, trips: Value, condition: Value, *carried: Value) -> list[Value]:
    most = np.inf if trips is None else call.static(trips).item()
    going, step, state, rows = condition is None or bool(call.static(condition).item()), 0, list(carried), []
    while going and step < most:
        goes_on, *made = call.run(call("body"), [np.array(step, np.int64), np.array(True), *state])
        state, row = made[: len(carried)], made[len(carried) :]
        going, step = bool(call.static(goes_on).item()), step + 1
        rows.append(row)
    if not rows and len(call.node.outputs) > len(carried):
        raise call.unsupported("makes rows in no step")
    return [*state, *(tf.stack(column) for column in zip(*rows, strict=True))]


RULES = {"If": Rule(_if), "Loop": Rule(_loop, fixed=[0, 1])}
