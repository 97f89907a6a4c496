"""Branches, and loops written out, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from maskc.train.from_onnx.rule import Call, Rule, Value


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


def _scan(call: Call, *operands: Value) -> list[Value]:
    count, body = call("num_scan_inputs"), call("body")
    if call.opset < 9:
        raise call.unsupported("scans a batch")
    state, columns = list(operands[:-count]), operands[-count:]
    axes, backward = call("scan_input_axes") or [0] * count, call("scan_input_directions") or [0] * count
    taken = [_rows(x, axis, way) for x, axis, way in zip(columns, axes, backward, strict=True)]
    rows = []
    for now in zip(*taken, strict=True):
        made = call.run(body, [*state, *now])
        state = made[: len(state)]
        rows.append(made[len(state) :])
    outputs = list(zip(*rows, strict=True))
    axes, backward = (
        call("scan_output_axes") or [0] * len(outputs),
        call("scan_output_directions") or [0] * len(outputs),
    )
    made = [tf.stack(y[::-1] if way else y, axis) for y, axis, way in zip(outputs, axes, backward, strict=True)]
    return [*state, *made]


def _rows(x: Value, axis: int, backward: int) -> Sequence[Value]:
    rows = list(tf.unstack(x, axis=axis))
    return rows[::-1] if backward else rows


RULES = {"If": Rule(_if), "Loop": Rule(_loop, fixed=[0, 1]), "Scan": Rule(_scan)}
