"""Recurrent layers, subgraphs and functions."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.generators.builder import Builder, Value
from tests.generators.steps.weights import weight


def recurrent(b: Builder, v: Value) -> Value | None:
    """LSTM, GRU or RNN over a sequence."""
    if v.rank != 3 or v.axis != 2 or b.dtype != TensorProto.FLOAT:
        return None
    op, gates = b.pick((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    hidden = b.some(1, 4)
    direction = b.pick(("forward", "forward", "reverse", "bidirectional"))
    ways = 2 if direction == "bidirectional" else 1
    b.sharp = b.sharp and direction == "forward" and b.opset < 14
    x = b.transpose(v, [1, 0, 2])
    w = weight(b, [ways, gates * hidden, v.channels], v.channels, outputs=1, inputs=2)
    r = b.normal(ways, gates * hidden, hidden, scale=0.4)
    vector = b.normal(ways, 2 * gates * hidden, scale=0.3)
    if b.flip(0.4):  # units without a candidate, or without a way to others
        live = b.keep(hidden)
        for array, columns in ((w, v.channels), (r, hidden), (vector, 1)):
            last = array.reshape(ways, -1, gates, hidden, columns)[:, :, -1]
            last *= live[:, None]
        r.reshape(ways, gates, hidden, hidden)[:, :, b.keep(hidden)] *= b.keep(hidden)
    operands = [b.const(w), b.const(r), b.const(vector) if b.flip(0.7) else ""]
    if b.flip(0.3) and x.shape[1] == 1:
        b.sharp = False
        operands += ["", b.const(b.normal(ways, 1, hidden) * b.keep(hidden))]
        if op == "LSTM" and b.flip(0.6):
            operands += [b.const(b.normal(ways, 1, hidden)), b.const(b.normal(ways, 3 * hidden))]
    attributes = {"linear_before_reset": 1} if op == "GRU" and b.flip(0.5) else {}
    if b.flip(0.2):  # the last state only
        b.sharp = False
        name = b.raw(op, [x, *operands], 2, hidden_size=hidden, direction=direction, **attributes)[1]
        return b.transpose(Value(name, (ways, x.shape[1], hidden), 2), [1, 0, 2])
    name = b.raw(op, [x, *operands], hidden_size=hidden, direction=direction, **attributes)[0]
    y = Value(name, (x.shape[0], ways, x.shape[1], hidden), 3)
    if ways == 1:
        return b.transpose(b.squeeze(y, [1]), [1, 0, 2])
    if not isinstance(v.shape[1], int):
        return b.reduce("ReduceSum", b.transpose(y, [2, 0, 1, 3]), [2], False)
    y = b.transpose(y, [2, 0, 1, 3])
    return b.op("Reshape", [y, b.ints([0, 0, 2 * hidden])], [v.shape[0], v.shape[1], 2 * hidden], 2)


def inner_layers(b: Builder, v: Value, tag: str) -> tuple[list[onnx.NodeProto], str]:
    """Nodes for a subgraph that reads v: two layers with a mask between them, back to the shape of v; their output."""
    if b.flip(0.4) or not (v.is_image or v.axis == v.rank - 1):
        return [], v.name
    wide, c = b.some(1, 6), v.channels
    op, ones = ("Conv", [1] * (v.rank - 2)) if v.is_image else ("MatMul", [])
    first, last = ([wide, c, *ones], [c, wide, *ones]) if v.is_image else ([c, wide], [wide, c])
    weights = [b.const(b.normal(*shape, scale=0.5)) for shape in (first, last)]
    keep = b.keep(wide).astype(b.numpy_type).reshape([wide, *ones])
    masked = [helper.make_node("Mul", [f"{tag}/wide", b.const(keep)], [f"{tag}/masked"])]
    if b.flip(0.3):  # a mask of the subgraph's own
        value = onnx.numpy_helper.from_array(keep)
        masked = [
            helper.make_node("Constant", [], [f"{tag}/keep"], value=value),
            helper.make_node("Mul", [f"{tag}/wide", f"{tag}/keep"], [f"{tag}/masked"]),
        ]
    return [
        helper.make_node(op, [v.name, weights[0]], [f"{tag}/wide"]),
        *masked,
        helper.make_node(b.pick(("Relu", "Sigmoid", "Tanh")), [f"{tag}/masked"], [f"{tag}/active"]),
        helper.make_node(op, [f"{tag}/active", weights[1]], [f"{tag}/narrow"]),
    ], f"{tag}/narrow"


def branching(b: Builder, v: Value) -> Value | None:
    """An If whose branches read tensors of the graph around it."""
    if b.opset < 11 or b.dtype == TensorProto.FLOAT16:  # ONNX Runtime 1.31 crashes on such a subgraph
        return None
    total = b.reduce("ReduceSum", v, list(range(v.rank)), False)
    condition = b.raw("Greater", [total, b.const(np.array(0.37, b.numpy_type))])[0]
    if b.flip(0.3):
        condition = b.const(np.array(b.flip(0.5)), bool)
    vector = b.per_channel(v, b.normal(v.channels), plain=True)
    names = (b.fresh("then"), b.fresh("else"))
    bodies = []
    for name, op in zip(names, ("Relu", "Mul"), strict=True):
        inner, last = inner_layers(b, v, name)
        inner.append(helper.make_node(op, [last] if op == "Relu" else [last, vector], [name]))
        bodies.append(helper.make_graph(inner, name.strip("/"), [], [b.value_info(Value(name, v.shape, v.axis))]))
    return b.op("If", [condition], v.shape, v.axis, then_branch=bodies[0], else_branch=bodies[1])


def loop(b: Builder, v: Value) -> Value | None:
    """A Loop that carries the tensor and reads weights of the graph around it."""
    if b.opset < 11 or b.dtype == TensorProto.FLOAT16:  # ONNX Runtime 1.31 crashes on such a subgraph
        return None
    vector = b.per_channel(v, b.positive(v.channels), plain=True)
    tag = b.fresh("body")
    state, out, cond = f"{tag}/state", f"{tag}/next", f"{tag}/go"
    inner, last = inner_layers(b, Value(state, v.shape, v.axis), tag)
    body = helper.make_graph(
        [
            *inner,
            helper.make_node("Mul", [last, vector], [f"{tag}/scaled"]),
            helper.make_node("Add", [f"{tag}/scaled", v.name if b.flip(0.6) else state], [f"{tag}/sum"]),
            helper.make_node("Tanh", [f"{tag}/sum"], [out]),
            helper.make_node("Identity", [f"{tag}/cond"], [cond]),
        ],
        "body",
        [
            helper.make_tensor_value_info(f"{tag}/i", TensorProto.INT64, []),
            helper.make_tensor_value_info(f"{tag}/cond", TensorProto.BOOL, []),
            b.value_info(Value(state, v.shape, v.axis)),
        ],
        [
            helper.make_tensor_value_info(cond, TensorProto.BOOL, []),
            b.value_info(Value(out, v.shape, v.axis)),
        ],
    )
    trips = b.const(np.array(2, np.int64))
    go = b.const(np.array(True), bool)
    return b.op("Loop", [trips, go, v], v.shape, v.axis, body=body)


def scan(b: Builder, v: Value) -> Value | None:
    """A Scan over the positions of a sequence: a running state, one output per step."""
    if v.rank != 3 or v.axis != 2 or b.opset < 11 or b.dtype == TensorProto.FLOAT16:
        return None
    x = b.transpose(v, [1, 0, 2])
    tag = b.fresh("scan")
    row = Value(f"{tag}/x", v.shape[:1] + v.shape[2:], 1)
    state, new, out = (Value(f"{tag}/{n}", row.shape, 1) for n in ("state", "new", "out"))
    inner, last = inner_layers(b, row, tag)
    body = helper.make_graph(
        [
            *inner,
            helper.make_node("Add", [state.name, last], [f"{tag}/sum"]),
            helper.make_node("Tanh", [f"{tag}/sum"], [new.name]),
            helper.make_node("Identity", [new.name], [out.name]),
        ],
        "body",
        [b.value_info(state), b.value_info(row)],
        [b.value_info(new), b.value_info(out)],
    )
    start = b.reduce("ReduceMean", v, [1], False)
    outputs = b.raw("Scan", [start, x], 2, body=body, num_scan_inputs=1)
    y = Value(outputs[1], x.shape, 2)
    return b.transpose(y, [1, 0, 2])


def function(b: Builder, v: Value) -> Value | None:
    """A call of a function that the model itself defines."""
    if b.opset < 13 or any(f.name == "Gate" for f in b.functions):
        return None
    head = f'<opset_import: ["": {b.opset}], domain: "local"> Gate (x, k) => (y)'
    b.functions.append(onnx.parser.parse_function(f"{head} {{ s = Sigmoid(x) m = Mul(s, k) y = Add(m, x) }}"))
    return b.like("Gate", v, b.per_channel(v, b.normal(v.channels)), domain="local")
