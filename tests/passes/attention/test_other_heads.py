"""Channels that are divided into heads where no queries meet keys."""

import numpy as np
import pytest

from tests.passes.attention.heads import HEADS, SIZE, WIDTH, independent, widths
from tests.passes.text import compiled, model, operators, random, weight

EDGES = {
    "pieces": """h = GatherND(v, src)  hw = Mul(h, a1)  y0 = ScatterND<reduction="add">(none, dst, hw)""",
    "elements": """su = Unsqueeze(src, two)  sx = Expand(su, wide)  h = GatherElements<axis=0>(v, sx)  hw = Mul(h, a1)
        du = Unsqueeze(dst, two)  dx = Expand(du, wide)  y0 = ScatterElements<axis=0, reduction="add">(none, dx, hw)""",
}


@pytest.mark.parametrize("form", [*EDGES, "matrix"])
def test_heads_of_attention_on_a_graph_are_cut(form: str) -> None:
    """Each channel is weighted, and summed over a head; then it goes along the edges, times what its head is worth."""
    scores = "va = Mul(v, fa)  l = ReduceSum<keepdims=0>(va, two)  vb = Mul(v, fb)  r = ReduceSum<keepdims=0>(vb, two)"
    if form == "matrix":
        passed = """l1 = Unsqueeze(l, one)  r1 = Unsqueeze(r, zero)  s = Add(l1, r1)  a = Softmax<axis=1>(s)
            y0 = Einsum<equation="ijh,jho->iho">(a, v)"""
    else:
        passed = """s1 = GatherND(l, src)  s2 = GatherND(r, dst)  s = Add(s1, s2)
            a = Sigmoid(s)  a1 = Unsqueeze(a, two)""" + EDGES[form]
    kept = independent()[0]
    source = model(
        f"(float[10,16] x, int64[24,1] src, int64[24,1] dst) => (float[10,5] o) <float[16,{WIDTH}] w, "
        f"float[1,{HEADS},{SIZE}] fa, float[{SIZE}] fb, float[{WIDTH}] bias, float[{WIDTH},5] wo>",
        f"""p = MatMul(x, w)  m = Mul(p, mask)  v = Reshape(m, heads)  {scores}  {passed}
        y1 = Reshape(y0, together)  y2 = Add(y1, bias)  y3 = Elu(y2)  o = MatMul(y3, wo)""",
        opset=18,
        constants={
            "mask": kept.astype(np.float32),
            "heads": np.asarray([10, HEADS, SIZE]),
            "together": np.asarray([10, WIDTH]),
            "none": np.zeros((10, HEADS, SIZE), np.float32),
            "wide": np.asarray([24, HEADS, SIZE]),
            **{name: np.asarray([i]) for i, name in enumerate(("zero", "one", "two"))},
        },
    )
    result = compiled(source)
    assert weight(result, "MatMul").shape[1] == widths(np.stack([kept] * 3))[2]
    assert weight(result, "MatMul", which=-1).shape[0] == kept.sum()


@pytest.mark.parametrize(
    "kind", ["sums", "gains of tokens", "parts", "parts again", "own tokens", "integers", "shifted zeros"]
)
def test_channels_stay_where_their_place_tells_them_apart(kind: str) -> None:
    """Sums over heads, gains that are computed, a part of each head, and edges written where there is something.

    And channels of which some are there several times, that are each picked from other tokens, or whose zeros stand for
    another number.
    """
    gained = "g = MatMul(x, wh)  ge = Reshape(g, each)  vg = Mul(v, ge)"
    between = {
        "sums": "y0 = ReduceSum<keepdims=0>(v, one)",
        "gains of tokens": "g = MatMul(x, wg)  ge = Reshape(g, apart)  y0 = Mul(v, ge)",
        "parts": "y0 = Slice(v, first, last, two)",
        "parts again": f"{gained}  ya = Gather<axis=2>(vg, again)  yb = Reshape(ya, together)"
        "  yc = Reshape(vg, together)  y0 = Add(yb, yc)",
        "own tokens": f"{gained}  y0 = GatherElements(vg, own)",
        "integers": "f = Add(m, far)  i = QuantizeLinear(f, step, zero)  iv = Reshape(i, heads)"
        "  y0 = DequantizeLinear(iv, step, zero)",
        "shifted zeros": 'y0 = ScatterND<reduction="add">(some, at, v)',
    }[kind]
    source = model(
        "(float[10,16] x, int64[10,1] at) => (float[10,5] o)",
        f"""p = MatMul(x, w)  m = Mul(p, mask)  v = Reshape(m, heads)  {between}
        y1 = Reshape(y0, together)  o = MatMul(y1, wo)""",
        opset=18,
        constants={
            "w": random(16, WIDTH),
            "wg": random(16, SIZE, seed=1),
            "mask": independent()[0].astype(np.float32),
            "heads": np.asarray([10, HEADS, SIZE]),
            "apart": np.asarray([10, 1, SIZE]),
            "together": np.asarray([10, -1]),
            "wo": random({"sums": SIZE, "parts": HEADS * 4}.get(kind, WIDTH), 5, seed=4),
            "some": random(10, HEADS, SIZE, seed=5),
            "wh": random(16, HEADS, seed=2),
            "each": np.asarray([10, HEADS, 1]),
            "again": np.arange(SIZE) // 2,
            "own": np.arange(10 * WIDTH).reshape(10, HEADS, SIZE) * 7 % 10,
            "far": np.where(independent()[0], 0, -1000).astype(np.float32),
            "step": np.float32(0.05),
            "zero": np.uint8(128),
            "first": np.asarray([2]),
            "last": np.asarray([6]),
            "one": np.asarray([1]),
            "two": np.asarray([2]),
        },
    )
    compiled(source)


def test_parts_of_which_one_is_empty() -> None:
    compiled(
        model(
            "(float[N,6] x) => (float[N,2,2] y, float[N,2,0] z) <float[6,8] w, int64[3] heads = {-1, 2, 4}, "
            "int64[3] sizes = {2, 2, 0}>",
            "p = MatMul(x, w)  m = Mul(p, mask)  v = Reshape(m, heads)  a, b, c = Split<axis=2>(v, sizes)"
            "  y = Mul(a, b)  z = Neg(c)",
            mask=np.asarray([1, 0, 1, 1, 1, 1, 0, 1]).astype(np.float32),
        )
    )


def test_what_divides_nothing_is_still_no_zero() -> None:
    """A quotient is not read of a numerator that is zero, and would be none if its denominator were, too."""
    compiled(
        model(
            "(float[N,3,16] x) => (float[N,3,5] y, float[N,3,32] d) <float[16,32] w, float one = {1.0}, "
            "int64[4] split = {-1, 3, 4, 8}, int64[3] turned = {2, 0, 1}, int64[3] back = {-1, 3, 32}, "
            "float[16,32] wn, float[16,64] wide, float[64,5] narrow>",
            """p = MatMul(x, w)  r = Relu(p)  a = Add(r, one)  s = Reshape(a, split)  t = Gather<axis=1>(s, turned)
            f = Reshape(t, back)  n = MatMul(x, wn)  m = Mul(n, mask)  d = Div(m, f)
            q = MatMul(x, wide)  qm = Mul(q, few)  y = MatMul(qm, narrow)""",
            mask=independent()[0].astype(np.float32),
            few=(np.arange(64) % 4 == 0).astype(np.float32),
        )
    )


@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_zeros_that_remove_nothing_are_not_left_behind(bias: float) -> None:
    """Heads lose unequal channels, and what reads them, example by example of a larger batch, needs all."""
    pieces = [
        f"""{name}0 = Reshape({name}, merged) {name}1 = Transpose<perm=[0,2,1]>({name}0)
        {name}2 = Reshape({name}1, apart) {name}3 = Softmax<axis=1>({name}2) {out} = Reshape({name}3, back)"""
        for name, out in (("p", "y"), ("q", "z"))
    ]
    source = model(
        "(float[N,6,5] x) => (float[A,B,C] y, float[D,E,F] z) <float[5,8] w, float[8] k = {1.0, 0, 1, 1, 1, 1, 1, 0}, "
        "int64[4] heads = {0, 6, 2, 4}, int64[2] parts = {3, 3}, int64[3] merged = {0, 3, 8}, "
        "int64[3] apart = {-1, 4, 3}, int64[3] back = {-1, 8, 3}>",
        "v = MatMul(x, w) m = Mul(v, k) s = Add(m, b) h = Reshape(s, heads) p, q = Split<axis=1>(h, parts)"
        + " ".join(pieces),
        b=np.full(8, bias, np.float32),
    )
    assert "Mul" not in operators(compiled(source))
