"""LSTM, GRU and RNN: input weights shrink with the data, hidden units go when nothing depends on them."""

from typing import Any

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.generators.check import assert_same_function
from tests.passes.text import Array, compiled, model, operators, random, weight

SIGNATURE = "(float[T,B,6] x) => (float[A,C,D,E] y)"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
KEEP = np.array([1, 0, 1, 1, 0, 0], np.float32)


def network(
    op: str,
    attributes: str = "",
    *,
    ways: int = 1,
    shift: float = 0.0,
    bias: bool = True,
    keep: Array = KEEP,
    states: str = "",
    weights: dict[str, Array] | None = None,
    read: str = "y = Identity(h)",
    outputs: str = "h",
    signature: str = SIGNATURE,
) -> onnx.ModelProto:
    rows = GATES[op] * 5
    constants: dict[str, Any] = {
        "k": keep,
        "c": (1 - keep) * shift,
        "w": random(ways, rows, 6) * 0.5,
        "r": random(ways, rows, 5, seed=1) * 0.5,
        "b": random(ways, 2 * rows, seed=2) * 0.3,
    } | (weights or {})
    operands = f"a, w, r, {'b' if bias else ''}{states}".rstrip(" ,")
    node = f"{outputs} = {op} <hidden_size = 5{attributes and ', '}{attributes}> ({operands})"
    return model(signature, f"m = Mul(x, k) a = Add(m, c) {node} {read}", 14, constants=constants)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_input_weights_shrink_with_the_data(op: str, shift: float, bias: bool, direction: str) -> None:
    """Zeros go, other constants go into the bias: in either direction."""
    ways = 2 if direction == "bidirectional" else 1
    result = compiled(network(op, f'direction = "{direction}"', ways=ways, shift=shift, bias=bias))
    assert weight(result, op).shape == (ways, GATES[op] * 5, 3)
    assert weight(result, op, 2).shape == (ways, GATES[op] * 5, 5)
    assert not result.report.held


@pytest.mark.parametrize("linear", [0, 1])
def test_bias_of_a_gru_whose_reset_comes_late(linear: int) -> None:
    """The constants belong to the half of the bias that the reset gate leaves alone."""
    result = compiled(network("GRU", f"linear_before_reset = {linear}", shift=1.3))
    assert weight(result, "GRU").shape == (1, 15, 3)


@pytest.mark.parametrize("op", GATES)
def test_batch_major(op: str) -> None:
    """The reference evaluator and ONNX Runtime's CPU provider may lack it: compare the weights instead."""
    source = network(op, "layout = 1")
    result = shrink(source)
    assert weight(result, op).shape == (1, GATES[op] * 5, 3)
    whole = onnx.numpy_helper.to_array(next(t for t in source.graph.initializer if t.name == "w"))
    assert np.array_equal(weight(result, op), whole[..., KEEP > 0])


@pytest.mark.parametrize("shift", [0.0, -0.4])
def test_data_that_is_constant_altogether_keeps_one_feature(shift: float) -> None:
    """ONNX Runtime reads uninitialised memory when its input has no features."""
    result = compiled(network("LSTM", keep=np.zeros(6, np.float32), shift=shift))
    assert weight(result, "LSTM").shape[2] >= 1


def test_features_that_all_units_ignore_are_not_computed() -> None:
    w = random(1, 20, 6)
    w[:, :, [0, 3]] = 0
    signature = "(float[T,B,4] x) => (float[T,1,B,5] y) <float[4,6] v, float[1,20,5] r>"
    source = model(signature, "a = MatMul(x, v) y, h = LSTM<hidden_size = 5>(a, w, r)", 14, w=w)
    result = compiled(source)
    assert weight(result, "MatMul").shape == (4, 4)
    assert weight(result, "LSTM").shape == (1, 20, 4)


@pytest.mark.parametrize("op", GATES)
def test_units_that_nothing_depends_on(op: str) -> None:
    """Unread, and no other unit is fed by them: gone with their rows, columns, biases, states and peepholes."""
    g, units = GATES[op], 5
    r = (random(1, g * units, units, seed=1) * 0.5).reshape(1, g, units, units)
    r[:, :, [0, 2, 4], 1] = 0  # units 0, 2 and 4 are not fed by 1 and 3
    r[:, :, [0, 2, 4], 3] = 0
    v = random(units, 3)
    v[[1, 3, 4]] = 0  # unit 4 is not read, but it feeds others
    weights = {"r": r.reshape(1, -1, units), "v": v, "s": random(1, 2, units, seed=7)}
    weights |= {"c0": random(1, 2, units, seed=8), "p": random(1, 3 * units, seed=9)}
    states = ", , s, c0, p" if op == "LSTM" else ", , s"
    source = network(
        op, weights=weights, states=states, read="y = MatMul(h, v)", signature="(float[T,2,6] x) => (float[A,C,D,3] y)"
    )
    result = compiled(source)
    assert weight(result, op, 2).shape == (1, 3 * g, 3)
    assert weight(result, op, 5).shape == (1, 2, 3)
    if op == "LSTM":
        assert weight(result, op, 7).shape == (1, 9)
    node = next(n for n in result.model.graph.node if n.op_type == op)
    assert next(a.i for a in node.attribute if a.name == "hidden_size") == 3


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("dead", [0, 1])
def test_a_direction_that_nothing_depends_on(op: str, dead: int) -> None:
    """Gone with its weights, states, peepholes and activations."""
    rows = GATES[op] * 5
    weights = {"d": np.repeat(np.arange(2.0) != dead, 5) * 1.0, "v": random(10, 3)}
    weights |= {"s": random(2, 2, 5, seed=7), "p": random(2, 15, seed=9), "u": np.array([0, 0, -1])}
    kinds = [["Sigmoid", "Tanh", "Tanh"], ["Sigmoid", "Relu", "Softsign"]]
    names = [name for way in kinds for name in (way if op == "LSTM" else way[:2] if op == "GRU" else way[1:2])]
    source = network(
        op,
        f'direction = "bidirectional", activations = {names}'.replace("'", '"'),
        ways=2,
        keep=np.ones(6, np.float32),
        states=", , s, s, p" if op == "LSTM" else ", , s",
        weights=weights,
        read="t = Transpose <perm = [0, 2, 1, 3]> (h) f = Reshape(t, u) m2 = Mul(f, d) y = MatMul(m2, v)",
        signature="(float[T,2,6] x) => (float[A,C,3] y)",
    )
    result = compiled(source)
    assert weight(result, op).shape == (1, rows, 6)
    assert weight(result, op, 5).shape == (1, 2, 5)
    assert weight(result, "MatMul").shape == (5, 3)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("fed", [False, True])
def test_units_that_are_zero_at_all_times(op: str, fed: bool) -> None:
    """A candidate without weights leaves the state at zero, unless another unit feeds it."""
    g, units = GATES[op], 5
    weights = fed_nothing(op) | {"v": random(units, 3)}
    r = weights["r"].reshape(1, g, units, units)
    r[:, CANDIDATE[op], 1, 3] = 0.5  # a zero unit feeds a zero unit
    if fed:
        r[:, CANDIDATE[op], 3, 0] = 0.5
    result = compiled(network(op, weights=weights, read="y = MatMul(h, v)", signature=SIGNATURE.replace("E]", "3]")))
    kept = 5 if fed else 3
    assert weight(result, op, 2).shape == (1, kept * g, kept)


def fed_nothing(op: str) -> dict[str, Array]:
    """Weights of which two of five candidates get nothing."""
    w, r, b = random(1, GATES[op], 5, 6) * 0.5, random(1, GATES[op], 5, 5, seed=1) * 0.5, random(1, 2, GATES[op], 5)
    for array in (w, r):
        array[:, CANDIDATE[op], [1, 3]] = 0
    b[:, :, CANDIDATE[op], [1, 3]] = 0
    return {"w": w.reshape(1, -1, 6), "r": r.reshape(1, -1, 5), "b": b.reshape(1, -1) * 0.3}


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("opset", [9, 11, 13])
def test_a_state_of_zeros_for_as_many_examples_as_there_are(op: str, opset: int) -> None:
    """As PyTorch writes it: inference by onnx follows the elements of its shape from opset 13 on only."""
    unsqueeze = "Unsqueeze (n, first)" if opset > 12 else "Unsqueeze<axes=[0]> (n)"
    zeros = f"sizes = Shape (m) n = Gather (sizes, at) batch = {unsqueeze} of = Concat<axis=0> (layers, batch, units)"
    cut = "Slice (all, none, ways, none)" if opset > 9 else "Slice<starts=[0], ends=[1], axes=[0]> (all)"
    states = "s, s" if op == "LSTM" else "s"
    body = f"""
        m = Mul (x, k) {zeros} all = ConstantOfShape (of) s = {cut}
        h = {op}<hidden_size = 5> (m, w, r, b, , {states}) y = MatMul (h, v)
    """
    constants = {"at": np.array(1), "layers": np.array([2]), "units": np.array([5]), "v": random(5, 3), "k": KEEP}
    constants |= {"first": np.array([0]), "none": np.array([0]), "ways": np.array([1])}
    signature = "(float[T,B,6] x) => (float[A,C,D,3] y)"
    result = compiled(model(signature, body, opset, constants=constants | fed_nothing(op)))
    assert weight(result, op).shape == (1, 3 * GATES[op], 3)


@pytest.mark.parametrize("op", GATES)
def test_a_state_of_sizes_that_are_not_declared(op: str) -> None:
    """It may hold anything, and cannot be cut: units stay, and the weights of masked features go."""
    states = "s, s" if op == "LSTM" else "s"
    source = network(
        op,
        weights=fed_nothing(op) | {"v": random(5, 3)},
        states=f", , {states}",
        read="y = MatMul(h, v)",
        signature="(float[T,B,6] x, float[W,B,U] s) => (float[A,C,D,3] y)",
    )
    result = shrink(source)
    assert_same_function(source, result.model, cases=[{"x": random(4, 2, 6), "s": random(1, 2, 5, seed=1)}])
    assert weight(result, op).shape == (1, 5 * GATES[op], 3)


def test_a_sigmoid_of_nothing_is_not_zero() -> None:
    """Other activations than the usual ones make something of a candidate of zero."""
    source = network(
        "RNN",
        'activations = ["Sigmoid"]',
        weights=fed_nothing("RNN") | {"v": random(5, 3)},
        read="y = MatMul(h, v)",
        signature="(float[T,B,6] x) => (float[A,C,D,3] y)",
    )
    assert weight(compiled(source), "RNN", 2).shape == (1, 5, 5)


def test_masked_units_of_the_last_state() -> None:
    """A mask behind the network frees no unit that feeds others, and the matrix behind it shrinks."""
    source = network(
        "GRU",
        weights={"v": random(5, 3), "n": np.array([1, 0, 1, 0, 1], np.float32)},
        outputs="h, last",
        read="t = Mul(last, n) y = MatMul(t, v)",
        signature="(float[T,B,6] x) => (float[A,B,3] y)",
    )
    result = compiled(source)
    assert weight(result, "GRU", 2).shape == (1, 15, 5)
    assert weight(result, "MatMul").shape == (3, 3)


def test_lengths_of_sequences() -> None:
    """Steps beyond the end stay zero, whatever went into the bias."""
    source = network(
        "LSTM", shift=0.9, states=", n", weights={"n": np.array([1, 3, 2], np.int32)},
        signature="(float[4,3,6] x) => (float[A,C,D,E] y)",
    )  # fmt: skip
    assert weight(compiled(source), "LSTM").shape == (1, 20, 3)


def test_bias_that_is_computed() -> None:
    """Constants cannot be added to it: an adapter restores them at its input, and zeros still go."""
    signature = "(float[T,B,6] x, float[1,10] b) => (float[A,C,D,E] y)"
    for shift, features in ((0.0, 3), (0.5, 6)):
        assert weight(compiled(network("RNN", shift=shift, signature=signature)), "RNN").shape[2] == features


def test_no_rule_is_needed_for_what_reads_it() -> None:
    result = compiled(network("LSTM", outputs="h, last, cell", read="y = Identity(h)"))
    assert operators(result)[-1] == "LSTM"


@pytest.mark.parametrize("op", GATES)
def test_constant_data_is_computed_beforehand(op: str) -> None:
    """Where the sequence has a static length, nothing of the network is left."""
    source = network(
        op,
        shift=0.6,
        keep=np.zeros(6, np.float32),
        weights={"v": random(5, 3), "one": np.array([1])},
        read="p = Squeeze(h, one) q = MatMul(p, v) y = Add(q, z)",
        signature="(float[4,2,6] x, float[4,2,3] z) => (float[4,2,3] y)",
    )
    assert operators(compiled(source)) == ["Add"]


@pytest.mark.parametrize("op", GATES)
def test_data_that_are_constants_keep_a_channel(op: str) -> None:
    """What they add is in the bias, and ONNX Runtime ends the process at data without channels."""
    data, rows = np.tile(np.arange(1, 7, dtype=np.float32), (2, 3, 1)), GATES[op] * 5
    states = ", s, s" if op == "LSTM" else ", s"  # after the lengths of sequences
    source = model(
        f"(float[1,3,5] x) => (float[A,C,D,E] y) <float[1,{rows},6] w, float[1,{rows},5] r, float[1,{2 * rows}] b>",
        f"s = Mul(x, one) h = {op} <hidden_size = 5> (d, w, r, b, {states}) y = Identity(h)",
        14,
        one=np.ones(5),
        d=data,
    )
    assert weight(compiled(source), op).shape == (1, rows, 1)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize(("dtype", "each"), [("int8", True), ("uint8", False)])
def test_weights_that_are_quantised_with_the_data(direction: str, dtype: str, each: bool) -> None:
    """Features go that are zero, and a unit whose candidate gets nothing; other constants count for the range."""
    ways, steps, zero = 1 + (direction != "forward"), np.random.default_rng(0), 100 * (dtype == "uint8")
    w, r = (steps.integers(-60, 60, (ways, n, 4, 5)) for n in (6, 5))
    b = random(ways, 8, 5, seed=2) * 0.3
    w[:, :, 3, 2] = r[:, :, 3, 2] = b[:, [3, 7], 2] = 0
    constants = {name: (v + zero).astype(dtype).reshape(ways, -1, 20) for name, v in (("w", w), ("r", r))}
    shape = (ways, 20) if each else (ways,)
    scale, point = np.full(shape, 0.01, np.float32), np.full(shape, zero, dtype)
    constants |= {"b": b.reshape(ways, 40), "s": scale, "z": point, "k": KEEP, "c": np.eye(6, dtype=np.float32)[1]}
    body = f'm = Mul(x, k) a = Add(m, c) h = com.microsoft.DynamicQuantizeLSTM<hidden_size=5, direction="{direction}">'
    source = model(SIGNATURE, f"{body}(a, w, r, b, , , , , s, z, s, z) y = MatMul(h, v)", v=(5, 3), **constants)
    result = shrink(source)
    assert_same_function(source, result.model)
    assert weight(result, "DynamicQuantizeLSTM").shape == (ways, 4, 16)
    assert result.report.after.macs / 128 == ways * (4 * 4 * (4 + 4) + 4 * 3)


@pytest.mark.parametrize(
    "node",
    [
        "LSTM<hidden_size=5>(a)",
        "LSTM<hidden_size=5, activations=3>(a, w, r)",
        "com.microsoft.DynamicQuantizeLSTM<hidden_size=5>(a, w, r, , , , , , s, none, s, none)",
        "com.microsoft.DynamicQuantizeLSTM<hidden_size=5>(a, w, r, , , , , , s, few, s, few)",
        "com.microsoft.DynamicQuantizeLSTM<hidden_size=5>(a)",
    ],
)
def test_what_lacks_operands_or_has_others_stays_as_it_is(node: str) -> None:
    """The model does not run, which is for ONNX Runtime to say."""
    quantised = "Quantize" in node
    shapes = ((1, 6, 20), (1, 5, 20)) if quantised else ((1, 20, 6), (1, 20, 5))
    w, r = (np.ones(shape, np.int8 if quantised else np.float32) for shape in shapes)
    points = {"none": np.zeros(0, np.int8), "few": np.zeros((1, 5), np.int8), "s": np.ones(1, np.float32)}
    body = f"a = Mul(x, k) h = {node} y = Relu(h)"
    source = model(SIGNATURE, body, checked=False, constants={"k": KEEP, "w": w, "r": r, **points})
    assert operators(shrink(source))[-1] == "Relu"
