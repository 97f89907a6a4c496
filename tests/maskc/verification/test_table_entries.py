"""Entries of tables and thresholds of channels that hardly any random value reaches, behind all that may pick them."""

import numpy as np
import pytest

import maskc
from tests.maskc import build
from tests.passes.text import drawn

ROWS, WRONG = 200, 137
TABLE = drawn("table", ROWS, 4)
NUMBERS = {
    "rows": np.array(ROWS),
    "most": np.array(float(ROWS - 1)),
    "zero": np.array(0),
    "low": np.array(0.0),
    "years": np.array(20.0),
    "years4": np.full(4, 20.0),
    "scales": np.array([0.0, 1.0]),
    "last": np.array([1]),
}
FLOATS, INTEGERS = f"(float[n,{ROWS}] x) => (float[n,4] y)", "(int64[n] x) => (float[n,4] y)"


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        (FLOATS, "a = ArgMax<axis=1, keepdims=0>(x) y = Gather(table, a)"),
        (FLOATS, "a = ArgMin<axis=1, keepdims=0>(x) h = OneHot<axis=-1>(a, rows, scales) y = MatMul(h, table)"),
        (INTEGERS, "a = Mod(x, rows) y = Gather(table, a)"),
        (INTEGERS, "k = Less(x, rows) a = Where(k, x, zero) y = Gather(table, a)"),
        (
            "(float[n] x) => (float[n,4] y)",
            "s = Mul(x, years) c = Clip(s, low, most) f = Floor(c) a = Cast<to=7>(f) y = Gather(table, a)",
        ),
        ("(float[n,4] z, int64 x) => (float[n,4] y)", "r = Gather(table, x) y = Mul(z, r)"),
        ("(int64[n,1] x) => (float[n,4] y)", "y = GatherND(table, x)"),
        ("(int64[n] x) => (float[4,n] y)", "t = Transpose(table) y = ai.onnx.ml.ArrayFeatureExtractor(t, x)"),
        ("(int64[n,5] x) => (float[n,4] y)", "a = Gather(table, x) y = ReduceMean<axes=[1], keepdims=0>(a)"),
        (
            "(int64[n] x) => (float[n,4] y)",
            "e, y = Scan<num_scan_inputs=1, body = b (float[4] s, int64 i) => (float[4] o, float[4] r) "
            "{ r = Gather(table, i) o = Add(s, r) }>(years4, x)",
        ),
        (
            "(int64[3] x) => (float[4] y)",
            "n = Constant<value_int=3>() t = Constant<value = bool {1}>() y = Loop(n, t, years4) "
            "<body = b (int64 i, bool c, float[4] s) => (bool d, float[4] r) "
            "{ d = Identity(c) k = Gather(x, i) g = Gather(table, k) r = Add(s, g) }>",
        ),
    ],
)
def test_an_entry_that_something_picks(signature: str, body: str) -> None:
    model = build.model(signature, body, checked=False, table=TABLE, **NUMBERS)
    wrong = build.changed(model, "table", lambda t: t + 0.5 * (np.arange(ROWS)[:, None] == WRONG).astype("f"))
    assert maskc.verify(model, model).passed
    assert not maskc.verify(model, wrong).passed


ROTATED = "(float[n,2,3,8] x, int64[n,3] at) => (float[n,2,3,8] y)"
EMBEDDED = "(int32[n,3] x, int32[n,3] s) => (float[n,3,4] y)"


@pytest.mark.parametrize("table", ["sine", "words", "places"])
def test_an_entry_that_a_fused_operator_looks_up(table: str) -> None:
    signature, body = (
        (ROTATED, "y = com.microsoft.RotaryEmbedding(x, at, cosine, sine)")
        if table == "sine"
        else (EMBEDDED, "y, m = com.microsoft.EmbedLayerNormalization(x, s, words, places, kinds, gain, bias)")
    )
    weights = {"cosine": (ROWS, 4), "sine": (ROWS, 4), "words": (ROWS, 4), "places": (16, 4), "kinds": (2, 4)}
    model = build.model(
        signature,
        body,
        checked=False,
        constants={n: drawn(n, *s) for n, s in weights.items()} | {"gain": np.ones(4), "bias": np.zeros(4)},
    )
    row = 2 if table == "places" else WRONG
    wrong = build.changed(model, table, lambda t: t + (np.arange(t.size) == 4 * row).reshape(t.shape).astype("f"))
    assert maskc.verify(model, model).passed
    assert not maskc.verify(model, wrong).passed


def test_a_class_that_a_number_is_compared_with() -> None:
    model = build.model(
        f"(float[n,{ROWS}] x) => (bool[n] y)", "a = ArgMax<axis=1, keepdims=0>(x) y = Less(a, k)", k=np.array(100)
    )
    assert maskc.verify(model, model).passed
    assert not maskc.verify(model, build.changed(model, "k", lambda k: k - 1)).passed


@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_of_one_channel(seed: int) -> None:
    model = build.model("(float[n,6] x) => (bool[n,16] y)", "h = MatMul(x, w) y = Greater(h, t)", w=(6, 16), t=(16,))
    wrong = build.changed(model, "t", lambda t: t + 0.02 * (np.arange(16) == 5).astype("f"))
    assert maskc.verify(model, model, seed=seed).passed
    assert not maskc.verify(model, wrong, seed=seed).passed


SENTINEL = "m = Equal(x, none) i = Where(m, v, x) y = MatMul(i, w)"
ABSENT = "m = IsNaN(x) i = Where(m, v, x) y = MatMul(i, w)"


@pytest.mark.parametrize("body", [SENTINEL, ABSENT])
def test_what_stands_in_for_a_missing_value(body: str) -> None:
    weights = {"none": np.array(-999.0), "v": drawn("v", 8), "w": drawn("w", 8, 3)}
    one, two = (
        build.model("(float[n,8] x) => (float[n,3] y)", text, checked=False, constants=weights)
        for text in (
            body,
            body.replace("m = ", "k = ").replace("(m,", "(k,").replace("i = ", "j = ").replace("(i,", "(j,"),
        )
    )
    wrong = build.changed(two, "v", lambda v: v + (np.arange(8) == 3).astype("f"))
    assert maskc.verify(one, two).passed
    assert not maskc.verify(one, wrong).passed


def test_sizes_that_are_computed_of_others() -> None:
    """ONNX Runtime cannot count them where it does not know how many axes there are."""
    body = """{0} = Conv(x, k) {1} = Shape({0}) {2} = Slice({1}, zero, two) {3} = Concat<axis=0>({2}, sizes)
        {4} = Resize<mode="nearest">({0}, , , {3}) y = Relu({4})"""
    weights = {"zero": np.array([0]), "two": np.array([2]), "sizes": np.array([6, 6]), "k": drawn("k", 4, 3, 1, 1)}
    one, two = (
        build.model("(float[n,3,4,4] x) => (float[n,4,6,6] y)", body.format(*names), checked=False, constants=weights)
        for names in ("abcde", "pqrst")
    )
    assert maskc.verify(one, two).passed


@pytest.mark.parametrize("names", ["nlir", "pqst"])
@pytest.mark.parametrize(
    "body",
    [
        "{3} = Slice(table, start, {0}, start)",
        "{1} = Squeeze({0}) {2} = Range(zero, {1}, one) {3} = Gather(table, {2})",
        "{2} = Slice(every, start, {0}, start) {3} = Gather(table, {2})",
    ],
)
def test_a_row_beyond_all_lengths_that_are_tried(body: str, names: str) -> None:
    constants = {"start": np.array([0]), "one": np.array(1), "every": np.arange(ROWS), "table": TABLE, **NUMBERS}
    one, two = (
        build.model(
            "(float[n,l,4] x) => (float[n,l,4] y)",
            "{0} = Shape<start=1, end=2>(x) BODY y = Add(x, {3})".replace("BODY", body).format(*each),
            checked=False,
            constants=constants,
        )
        for each in ("nlir", names)
    )
    wrong = build.changed(two, "table", lambda t: t + 0.5 * (np.arange(ROWS)[:, None] == WRONG).astype("f"))
    assert maskc.verify(one, two).passed
    assert not maskc.verify(one, wrong).passed
