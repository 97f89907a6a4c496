"""Models that differ only where no sample comes: integers below 0 or large, words, thresholds, what is no number."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import maskc
from tests.maskc import build

TABLE = np.arange(64, dtype=np.float32).reshape(8, 8)
INTEGERS = "(int64[n,6] x) => (int64[n,6] y)"
FLOATS = "(float[n,8] x) => (float[n,8] y)"
BOOLS = "(float[n,8] x) => (bool[n,8] y)"
EMBEDDED = "(int64[n,6] x) => (float[n,6,8] y)"
PADDED = """
    low = Less(x, zero)
    at = Max(x, zero)
    e = Gather(table, at)
    c = Unsqueeze(low, last)
    y = Where(c, nothing, e)
"""
DRAWN = "a = RandomNormalLike(x) b = RandomNormalLike(x) p = Add(x, a) y = Sub(p, b)"
TRAINED = "a, m = Dropout(x, half, yes) b, n = Dropout(x, half, yes) y = Sub(a, b)"
WEIGHTS = {
    "zero": np.array(0),
    "table": TABLE,
    "nothing": np.zeros(8, np.float32),
    "last": np.array([2]),
    "day": np.array(86_400),
    "other": np.array(86_401),
    "half": np.array(0.5, np.float32),
    "yes": np.array(True),
    "none": np.array(0, np.float32),
}


@pytest.mark.parametrize(
    ("signature", "before", "after"),
    [
        (INTEGERS, "y = Max(x, zero)", "y = Identity(x)"),
        (INTEGERS, "y = Mod(x, day)", "y = Mod(x, other)"),
        (INTEGERS, "y = Identity(x)", "s = Cast<to=3>(x) y = Cast<to=7>(s)"),
        (EMBEDDED, PADDED, "y = Gather(table, x)"),
        (FLOATS, "n = IsNaN(x) y = Where(n, none, x)", "y = Identity(x)"),
        (BOOLS, "l = Log(x) y = Greater(l, none)", "a = Abs(x) l = Log(a) y = Greater(l, none)"),
        (FLOATS, DRAWN, "y = Identity(x)"),
        (FLOATS, TRAINED, "a, m = Dropout(x, half, yes) y = Sub(a, a)"),
    ],
)
def test_they_are_told_apart(signature: str, before: str, after: str) -> None:
    one, two = (build.model(signature, body, 17, checked=False, **WEIGHTS) for body in (before, after))
    assert maskc.verify(one, one).passed
    result = maskc.verify(one, two)
    assert not result.passed and result.certificate is None


def of_ml(op: str, kind: int, **attributes: object) -> onnx.ModelProto:
    """A model of one operator for what is no network."""
    node = helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    made = TensorProto.INT64 if op == "LabelEncoder" else TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, of, ["n", 1]) for name, of in (("x", kind), ("y", made))]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def labels(*values: int) -> onnx.ModelProto:
    return of_ml(
        "LabelEncoder", TensorProto.STRING, keys_strings=["cat", "dog"], values_int64s=values, default_int64=-1
    )


def tree(threshold: float, leaf: float) -> onnx.ModelProto:
    nodes = {
        "nodes_treeids": [0] * 3,
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0] * 3,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [threshold, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
    }
    leaves = {"target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, leaf]}
    return of_ml("TreeEnsembleRegressor", TensorProto.FLOAT, n_targets=1, **nodes, **leaves)


@pytest.mark.parametrize(
    ("one", "two"),
    [(labels(1, 2), labels(2, 1)), (tree(200, 5), tree(200, 6)), (tree(45, 5), tree(46, 5))],
)
def test_words_and_thresholds_are_drawn(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
    assert maskc.verify(one, one).passed
    assert not maskc.verify(one, two).passed


def test_sequences_of_one_length_or_another() -> None:
    body = """
        y = If (c) <then_branch = one () => (seq(float[n,8]) a) { a = SequenceConstruct(x, x) },
                    else_branch = two () => (seq(float[n,8]) b) { b = SequenceConstruct(x) }>
    """
    model = build.model("(float[n,8] x, bool c) => (seq(float[n,8]) y)", body, 17, checked=False)
    assert maskc.verify(model, model).passed


def test_what_bodies_read_is_compared_where_they_make_sequences() -> None:
    body = """
        s = ReduceMax<keepdims=0>(x)
        c = Greater(s, far)
        y = If (c) <then_branch = one () => (seq(float[n,8]) a) { p = Mul(x, w) a = SequenceConstruct(p, x) },
                    else_branch = two () => (seq(float[n,8]) b) { q = Relu(x) b = SequenceConstruct(q, q) }>
    """
    one, two = (
        build.model(
            "(float[n,8] x) => (seq(float[n,8]) y)",
            body,
            17,
            checked=False,
            w=np.array(w, np.float32),
            far=np.array(1e4, np.float32),
        )
        for w in (2, 3)
    )
    assert not maskc.verify(one, two).passed
