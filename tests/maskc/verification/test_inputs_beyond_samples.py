"""Models that differ only where no sample comes: integers below 0 or large, words, thresholds, what is no number."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import maskc
from tests.maskc import build
from tests.passes.text import drawn

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


TABLES = {"w": np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32), "k": np.eye(8, dtype=np.float32)}
LOOK_UPS = {
    "of another type": ("(int32[n,2] x) => (float[n,2,8] y)", "i = Cast<to=7>(x) y = Gather(w, i)", None),
    "a column": ("(int64[n,3] x) => (float[n,2,8] y)", "i = Gather<axis=1>(x, two) y = Gather(w, i)", None),
    "of a computed table": ("(int64[n] x) => (float[n,8] y)", "n = Neg(w) y = Gather(n, x)", "y = Gather(v, x)"),
    "projected": ("(int64[n] x) => (float[n,8] y)", "e = Gather(w, x) y = MatMul(e, k)", "y = Gather(u, x)"),
    "of columns": ("(int64[n] x) => (float[8,n] y)", "y = Gather<axis=1>(t, x)", None),
}


@pytest.mark.parametrize("case", LOOK_UPS)
def test_a_row_that_a_look_up_behind_another_node_reaches(case: str) -> None:
    signature, before, after = LOOK_UPS[case]
    stored = {**TABLES, "two": np.array([0, 1]), "u": TABLES["w"], "v": -TABLES["w"], "t": TABLES["w"].T.copy()}
    one, right = (build.model(signature, body, 17, checked=False, **stored) for body in (before, after or before))
    assert maskc.verify(one, right).passed
    row = np.arange(3000) == 1777
    (table,) = (name for name in "uvwt" if f"({name}, " in (after or before))
    wrong = build.changed(right, table, lambda w: w + (row if table == "t" else row[:, None]))
    assert not maskc.verify(one, wrong).passed


AGES = "(float[n,4] x) => (bool[n,4] y)"
WORDS = np.array(["a", "b", "c", "d"], object)
LIMITS = np.arange(4, dtype=np.float32) * 100
NUMBERS = {
    "age": np.float32(18),
    "limits": LIMITS,
    "others": LIMITS[::-1].copy(),
    "low": np.float32(0),
    "high": LIMITS[3],
}
NUMBERS |= {"top": np.array(250), "halves": np.array([2, 2]), "ends": np.array([0]), "m": np.float32(3)}
NUMBERS |= {"words": WORDS, "reversed": WORDS[::-1].copy(), "p": np.eye(4, dtype=np.float32), "last": np.array([-1])}
NUMBERS |= {"q": np.eye(4, dtype=np.float32) + np.float32(0.5), "five": np.arange(5, 9), "mask": np.array(15)}


@pytest.mark.parametrize(
    ("signature", "before", "after"),
    [
        (AGES, "y = GreaterOrEqual(x, age)", "y = Greater(x, age)"),
        (AGES, "f = Floor(x) y = GreaterOrEqual(f, age)", "f = Floor(x) y = Greater(f, age)"),
        (AGES, "y = Greater(x, limits)", "y = Greater(x, others)"),
        ("(string[n,4] x) => (bool[n,4] y)", "y = Equal(x, words)", "y = Equal(x, reversed)"),
        (
            "(float[n,4] x) => (uint8[n,4] y)",
            "c = Clip(x, low, high) y = Cast<to=2>(c)",
            "c = Clip(x, low) y = Cast<to=2>(c)",
        ),
        (
            "(int64[n,1] x) => (float[n,4] y)",
            "e = Equal(x, five) c = Cast<to=1>(e) y = MatMul(c, p)",
            "e = Equal(x, five) c = Cast<to=1>(e) y = MatMul(c, q)",
        ),
        (
            "(float[n,4] x) => (float[n,2] y)",
            "a, b = Split<axis=1>(x, halves) i = IsNaN(a) y = Where(i, m, a)",
            "a, b = Split<axis=1>(x, halves) y = Identity(a)",
        ),
        ("(float[n,4] x) => (float[n,4] y)", "e = Equal(x, x) y = Where(e, x, m)", "y = Identity(x)"),
        ("(int64[n,1] x) => (int64[n] y)", "s = Squeeze(x, last) y = Abs(s)", "y = Squeeze(x, last)"),
        ("(int64[n,1] x) => (int64[n,1] y)", "y = BitwiseAnd(x, mask)", "y = Identity(x)"),
        (
            "(string[n] x) => (string[n] y)",
            'y = StringNormalizer<case_change_action="LOWER", locale="C">(x)',
            'y = StringNormalizer<locale="C">(x)',
        ),
    ],
)
def test_single_numbers_and_words_tell_them_apart(signature: str, before: str, after: str) -> None:
    one, two = (build.model(signature, body, 20, checked=False, **NUMBERS) for body in (before, after))
    assert maskc.verify(one, one).passed
    assert not maskc.verify(one, two).passed


def test_a_sequence_of_a_tensor_that_has_another_name() -> None:
    bodies = [f"{name} = MatMul(x, {w}) y = SequenceConstruct({name}, x)" for name, w in ("ap", "bp", "bq")]
    signature = "(float[n,4] x) => (seq(float[n,4]) y)"
    one, two, wrong = (build.model(signature, body, 17, checked=False, **NUMBERS) for body in bodies)
    assert maskc.verify(one, two).passed
    assert not maskc.verify(one, wrong).passed


def test_indices_that_are_moved_stay_within_their_table() -> None:
    body = "i = Add(x, offsets) y = Gather(w, i)"
    offsets = np.array([[0, 1000, 2900]])
    model = build.model("(int64[n,3] x) => (float[n,3,8] y)", body, 17, checked=False, **TABLES, offsets=offsets)
    assert maskc.verify(model, model).passed


SCORES = {
    "a product": "q = MatMul(x, w8) u = Relu(q) m = MatMul(u, w) r = Squeeze(m)",
    "a sum": "r = ReduceSum<keepdims=0>(x)",
    "a mean in a Sigmoid": "q = ReduceMean<keepdims=0>(x) r = Sigmoid(q)",
}
DECISIONS = {
    "a number": ("float[]", "k = Greater(r, limit) y = Cast<to=1>(k)"),
    "a choice of values": ("float[1,8]", "k = Greater(r, limit) n = Neg(x) y = Where(k, x, n)"),
    "a branch": (
        "float[1,8]",
        "k = Greater(r, limit) y = If(k) <then_branch = t () => (float[1,8] a) { a = Identity(x) }, "
        "else_branch = e () => (float[1,8] b) { b = Neg(x) }>",
    ),
}


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("score", SCORES)
def test_a_threshold_is_compared_whatever_comes_before_it(score: str, decision: str) -> None:
    """What it reads has one element, of which few lie between one threshold and the other."""
    kind, body = DECISIONS[decision]
    signature, weights = f"(float[1,8] x) => ({kind} y)", {"w8": (8, 16), "w": (16, 1)}
    one, two, same = (
        build.model(signature, f"{SCORES[score]} {body}", 12, checked=False, constants={"limit": limit}, **weights)
        for limit in (np.float32(0.3), np.float32(0.33), np.nextafter(np.float32(0.3), np.float32(1)))
    )
    for seed in range(3):
        assert not maskc.verify(one, two, seed=seed).passed
    assert maskc.verify(one, same).passed  # a number that was computed may be a rounding off


@pytest.mark.parametrize(
    ("signature", "body", "shapes", "channel"),
    [
        (
            "(float[1,4,20] x) => (float[1,8,18] y)",
            "c = Conv(x, w) y = InstanceNormalization(c, s, b)",
            {"w": (8, 4, 3), "s": (8,), "b": (8,)},
            3,
        ),
        (
            "(float[1,5,5,8] x) => (float[1,5,5,6] y)",
            "c = MatMul(x, w) y = Mul(c, s)",
            {"w": (8, 6), "s": (6,)},
            (slice(None), 2),
        ),
        ("(float[8,9] x) => (float[6,9] y)", "c = MatMul(w, x) y = Mul(c, s)", {"w": (6, 8), "s": (6, 1)}, 2),
    ],
)
def test_a_channel_that_is_far_smaller_than_others_is_compared(
    signature: str, body: str, shapes: dict[str, tuple[int, ...]], channel: object
) -> None:
    one = build.model(signature, body, 17, checked=False, **shapes)

    def small(values: np.ndarray) -> np.ndarray:
        values[channel] *= np.float32(1e-5)
        return values

    def off(values: np.ndarray) -> np.ndarray:
        part = values[channel]
        part.reshape(-1)[:1] *= np.float32(1.1)
        values[channel] = part
        return values

    one = build.changed(one, "w", small)
    assert maskc.verify(one, one).passed
    assert not maskc.verify(one, build.changed(one, "w", off)).passed


@pytest.mark.parametrize(
    ("signature", "before", "after"),
    [
        ("(int64[n,6] x) => (int64[n,2] y)", "p = Abs(x) y, i = TopK(p, two)", "y, i = TopK(x, two)"),
        ("(int64[n,6] x) => (int64[n,6] y)", "p = Abs(x) y = CumSum(p, axis)", "y = CumSum(x, axis)"),
        (
            "(uint32[n,6] x) => (uint32[n,6] y)",
            'y = BitShift<direction="RIGHT">(x, a)',
            'y = BitShift<direction="RIGHT">(x, b)',
        ),
        (
            "(int64[2,6] x) => (float[2,6] y)",
            "low = Less(x, zero) m = Add(x, five) w = Where(low, m, x) y = GatherElements<axis=1>(t, w)",
            "y = GatherElements<axis=1>(t, x)",
        ),
        ("(float[n,6] x) => (float[n,6] y)", "y = ThresholdedRelu<alpha=0.5>(x)", "y = ThresholdedRelu<alpha=0.51>(x)"),
    ],
)
def test_integers_of_any_sign_and_thresholds_in_attributes(signature: str, before: str, after: str) -> None:
    weights = {"two": np.array([2]), "axis": np.array(1), "a": np.array(16, np.uint32), "b": np.array(17, np.uint32)}
    weights |= {"zero": np.array(0), "five": np.array(5), "t": np.arange(12, dtype=np.float32).reshape(2, 6)}
    one, two = (build.model(signature, body, 17, checked=False, **weights) for body in (before, after))
    assert maskc.verify(one, one).passed
    assert not maskc.verify(one, two).passed


# In bodies, that of a Loop with a state, of an If and of a Scan: what they make of s.
BODIES = {
    "Loop": "n = Constant<value_int=3>() t = Constant<value = bool {1}>() y = Loop(n, t, x) "
    "<body = b (int64 i, bool c, KIND[4,6] s) => (bool d, KIND[4,6] r) { d = Identity(c) %s }>",
    "If": "m = ReduceMax<keepdims=0>(x) zero = Sub(m, m) c = Greater(m, zero) s = Abs(x) "
    "y = If(c) <then_branch = a () => (KIND[4,6] r) { %s }, else_branch = b () => (KIND[4,6] q) { q = Identity(x) }>",
    "Scan": "f = ReduceSum<keepdims=0>(x, axis) e, y = Scan<num_scan_inputs=1, "
    "body = b (KIND[6] v, KIND[6] s) => (KIND[6] o, KIND[6] r) { %s o = Add(r, v) }>(f, x)",
}


@pytest.mark.parametrize("operator", BODIES)
@pytest.mark.parametrize(
    ("kind", "body", "number", "other"),
    [
        ("float", "h = Constant<value_float=AT>() g = Greater(s, h) k = Cast<to=1>(g) r = Add(s, k)", "0.5", "0.52"),
        ("float", "h = Constant<value_float=AT>() g = Greater(s, h) k = Cast<to=1>(g) r = Add(s, k)", "50.5", "52.0"),
        ("int64", "h = Constant<value_int=AT>() g = Equal(s, h) k = Cast<to=7>(g) r = Add(s, k)", "3750", "3751"),
        ("int64", "h = Constant<value_int=AT>() r = Mod(s, h)", "1000", "1001"),
    ],
)
def test_what_a_body_compares_something_with(operator: str, kind: str, body: str, number: str, other: str) -> None:
    text = (BODIES[operator] % body).replace("KIND", kind)
    one, two = (
        build.model(
            f"({kind}[4,6] x) => ({kind}[4,6] y)", text.replace("AT", at), 17, checked=False, axis=np.array([0])
        )
        for at in (number, other)
    )
    assert maskc.verify(one, one).passed
    assert not maskc.verify(one, two).passed


def test_one_branch_of_many_that_look_alike() -> None:
    """Under other names inside: conditions that hold for hardly any number, and zeros in place of what they choose."""
    choice = (
        "{0}e{1} = Equal(which, c{1}) {0}y{1} = If({0}e{1}) "
        "<then_branch = a () => (float[n,4] p) {{ p = MatMul(x, w{1}) }}, "
        "else_branch = b () => (float[n,4] q) {{ q = MatMul(x, zeros) }}> "
    )
    weights = {f"w{k}": drawn(f"w{k}", 8, 4) for k in range(8)} | {f"c{k}": np.array(k) for k in range(8)}
    one, two = (
        build.model(
            "(float[n,8] x, int64 which) => (float[n,4] y)",
            "".join(choice.format(p, k) for k in range(8)) + f"y = Sum({', '.join(f'{p}y{k}' for k in range(8))})",
            checked=False,
            constants=weights | {"zeros": np.zeros((8, 4))},
        )
        for p in "st"
    )
    wrong = build.changed(two, "w5", lambda w: 1.5 * w)
    assert maskc.verify(one, two).passed
    assert not maskc.verify(one, wrong).passed


@pytest.mark.parametrize("overlap", [0.4, 0.55])
def test_boxes_lie_on_each_other_more_or_less(overlap: float) -> None:
    """Those of a run hardly do, and how much they may is the number by which they are suppressed."""
    body, signature = "y = NonMaxSuppression(b, s, most, i, t)", "(float[1,12,4] b, float[1,2,12] s) => (int64[k,3] y)"
    right, wrong = (
        build.model(signature, body, checked=False, most=np.array([5]), i=np.array([i]), t=np.array([0.1]))
        for i in (0.5, overlap)
    )
    assert maskc.verify(right, right).passed
    assert not maskc.verify(right, wrong).passed


@pytest.mark.parametrize(
    ("limited", "other"),
    [
        ("c = Clip(m, low, high)", "c = Identity(m)"),
        ("c = Max(m, low)", "c = Identity(m)"),
        ("c = Min(m, high)", "c = Identity(m)"),
        ("s = Softmax(m) l = Clip(s, tiny) c = Log(l)", "s = Softmax(m) l = Clip(s, small) c = Log(l)"),
    ],
)
def test_limits_that_no_value_of_a_run_comes_near(limited: str, other: str) -> None:
    weights = {"w": 0.1 * drawn("w", 8, 8), "v": drawn("v", 8, 4), "low": np.array(-1000.0), "high": np.array(1000.0)}
    weights |= {"tiny": np.array(1e-7), "small": np.array(1e-5)}
    right, wrong = (
        build.model("(float[n,l,8] x) => (float[n,l,4] y)", f"m = MatMul(x, w) {body} y = MatMul(c, v)", **weights)
        for body in (limited, other)
    )
    assert maskc.verify(right, right).passed
    assert not maskc.verify(right, wrong).passed
