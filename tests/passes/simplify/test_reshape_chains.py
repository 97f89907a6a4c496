"""Chains of reshapes and transposes that only put one axis, or the axes, in another order."""

import numpy as np
import onnx
import pytest

from passes.sizes.prepare import prepared
from tests.generators.check import check
from tests.passes.text import compiled, exact, mask, model, operators, random, weight

SHUFFLES = {
    "static": ("8,8", "c = Reshape(m, s1)\n t = Transpose<perm=[0,2,1,3,4]>(c)\n z = Reshape(t, s2)"),
    "symbolic": ("H,W", "c = Reshape(m, s1)\n t = Transpose<perm=[0,2,1,3,4]>(c)\n z = Reshape(t, s2)"),
    "merged": ("8,8", "c = Reshape(m, s3)\n t = Transpose<perm=[0,2,1,3]>(c)\n z = Reshape(t, s2)"),
    "computed": (
        "H,W",
        "f = Shape(m)\n n = Gather<axis = 0>(f, zero)\n hw = Slice(f, two, four)\n l1 = Concat<axis = 0>(n, gc, hw)\n"
        "c = Reshape(m, l1)\n t = Transpose<perm=[0,2,1,3,4]>(c)\n l2 = Concat<axis = 0>(n, six, hw)\n"
        "z = Reshape(t, l2)",
    ),
    "copied": ("8,8", "c = Reshape(m, s1)\n t = Transpose<perm=[0,2,1,3,4]>(c)\n z = Reshape(t, s4)"),
}


def kinds(source: onnx.ModelProto) -> list[str]:
    return [n.op for n in prepared(source).nodes]


@pytest.mark.parametrize("form", list(SHUFFLES))
def test_a_channel_shuffle_frees_channels(form: str) -> None:
    size, text = SHUFFLES[form]
    tail = form in ("static", "merged")
    ints = {
        "s1": [0, 2, 3, 8, 8] if tail else [0, 2, 3, -1, 8],
        "s2": [-1, 6, 8, 8] if tail else [0, 6, -1, 8],
        "s3": [0, 2, 3, 64],
        "s4": [0, 6, -1, 8],
        "gc": [2, 3],
        **{name: [value] for name, value in {"zero": 0, "two": 2, "four": 4, "six": 6}.items()},
    }
    source = model(
        f"(float[N,4,{size}] x) => (float[N,2,{size}] y) <float[6,4,1,1] wa>",
        f"a = Conv(x, wa)\n m = Mul(a, keep)\n {text}\n y = Conv(z, wb)",
        constants=ints,
        wb=random(2, 6, 1, 1, seed=1) * mask(1, 1, 1, 1, 1, 0),
        keep=mask(1, 1, 0, 1, 1, 1),
    )
    assert "Gather" in kinds(source)
    sizes = {} if size == "8,8" else {"H": (8,), "W": (8,)}
    result = compiled(source, **sizes)
    assert weight(result, "Conv", which=0).shape[0] == 4
    assert weight(result, "Conv", which=1).shape[1] == 4
    assert "Transpose" not in operators(result)
    exact(source, **sizes)


#: how PyTorch's exporter writes the transposed keys of attention for open sizes
KEYS = """
    f = Shape(k)\n d = Slice(f, minus, end)\n t = Slice(f, two, minus)\n l = Slice(f, zero, two)
    s1 = Concat<axis = 0>(minus, t, d)\n r = Reshape(k, s1)\n p = Transpose<perm = [0,2,1]>(r)
    s2 = Concat<axis = 0>(l, d, t)\n z = Reshape(p, s2)
"""
INTS = {name: np.asarray([value]) for name, value in {"minus": -1, "zero": 0, "two": 2, "end": 2**63 - 1}.items()}

CHAINS = {
    "the two last axes, with the others merged meanwhile": (
        "(float[N,3,T,5] x) => (float[N,3,5,T] y)",
        f"k = Relu(x)\n {KEYS} y = Neg(z)",
        "Relu Transpose Neg",
    ),
    "and transposed before, with one axis of one": (
        "(float[N,T,1,5] x) => (float[N,1,5,T] y)",
        f"a = Relu(x)\n k = Transpose<perm=[0,2,1,3]>(a)\n {KEYS} y = Neg(z)",
        "Relu Transpose Neg",
    ),
    "behind axes that are merged meanwhile": (
        "(float[N,3,2,4] x) => (float[N,4,3,2] y) <int64[3] s1 = {-1, 6, 4}, int64[4] s2 = {0, 4, 3, 2}>",
        "a = Relu(x)\n b = Reshape(a, s1)\n c = Transpose<perm=[0,2,1]>(b)\n y = Reshape(c, s2)",
        "Relu Transpose",
    ),
    "equal sizes of others": (
        "(float[3,4,5,4] x) => (float[3,4,5,4] y) <int64[3] s1 = {3, 20, 4}, int64[4] s2 = {3, 4, 5, 4}>",
        "a = Relu(x)\n b = Reshape(a, s1)\n c = Transpose<perm=[0,2,1]>(b)\n d = Reshape(c, s2)\n y = Neg(d)",
        "Relu Reshape Transpose Reshape Neg",
    ),
    "nothing but an axis of one": (
        "(float[N,1,4,5] x) => (float[N,4,1,5] y) <int64[3] s1 = {0, 4, 5}, int64[4] s2 = {0, 4, 1, 5}>",
        "a = Relu(x)\n b = Reshape(a, s1)\n c = Reshape(b, s2)\n y = Neg(c)",
        "Relu Reshape Reshape Neg",
    ),
    "a shuffle of the last axis of a sequence": (
        "(float[N,T,6] x) => (float[N,T,6] y) <int64[4] s1 = {0, 0, 2, 3}, int64[3] s2 = {0, 0, 6}>",
        "m = Relu(x)\n c = Reshape(m, s1)\n t = Transpose<perm=[0,1,3,2]>(c)\n y = Reshape(t, s2)",
        "Relu Gather",
    ),
    "back to where they were": (
        "(float[N,4,H,W] x) => (float[N,4,H,W] y) <int64[1] one = {1}>",
        "a = Relu(x)\n b = Transpose<perm=[0,2,3,1]>(a)\n c = Unsqueeze(b, one)\n d = Squeeze(c, one)\n"
        "e = Transpose<perm=[0,3,1,2]>(d)\n y = Neg(e)",
        "Relu Neg",
    ),
    "windows": (
        "(float[N,4,4,6] x) => (float[M,2,2,6] y) <int64[6] s1 = {0, 2, 2, 2, 2, 6}, int64[4] s2 = {-1, 2, 2, 6}>",
        "a = Relu(x)\n b = Reshape(a, s1)\n c = Transpose<perm=[0,1,3,2,4,5]>(b)\n y = Reshape(c, s2)",
        "Relu Reshape Transpose Reshape",
    ),
    "a permutation of two axes": (
        "(float[N,4,6] x) => (float[N,4,6] y) <int64[5] s1 = {0, 2, 2, 2, 3}, int64[3] s2 = {0, 4, 6}>",
        "a = Relu(x)\n b = Reshape(a, s1)\n c = Transpose<perm=[0,2,1,4,3]>(b)\n y = Reshape(c, s2)",
        "Relu Reshape Transpose Reshape",
    ),
    "read inside as well": (
        "(float[N,6,4] x) => (float[N,6,4] y, float[N,2,3,4] z) <int64[4] s1 = {0, 2, 3, 4}, int64[3] s2 = {0, 6, 4}>",
        "a = Relu(x)\n b = Reshape(a, s1)\n c = Transpose<perm=[0,2,1,3]>(b)\n y = Reshape(c, s2)\n z = Neg(b)",
        "Relu Reshape Gather Neg",
    ),
    "the end in a subgraph": (
        "(float[N,6,4] x, bool c) => (float[N,6,4] y) <int64[4] s1 = {0, 2, 3, 4}, int64[3] s2 = {0, 6, 4}>",
        "a = Relu(x)\n b = Reshape(a, s1)\n"
        "d = If (c) <then_branch = t () => (float[N,6,4] f) { e = Transpose<perm=[0,2,1,3]>(b) f = Reshape(e, s2) }, "
        "else_branch = o () => (float[N,6,4] h) { g = Neg(b) h = Reshape(g, s2) }>\n y = Neg(d)",
        "Relu Reshape If Neg",
    ),
}


@pytest.mark.parametrize(("signature", "body", "expected"), CHAINS.values(), ids=CHAINS)
def test_what_becomes_of_a_chain(signature: str, body: str, expected: str) -> None:
    source = model(signature, body, constants=INTS)
    assert sorted(kinds(source)) == sorted(expected.split())
    check(source)


def test_a_chain_that_moves_nothing_at_all() -> None:
    source = model(
        "(float[0,3,4] x) => (float[3,4,0] y) <int64[3] s1 = {0, 3, 4}>",
        "a = Relu(x)\n b = Reshape<allowzero = 1>(a, s1)\n y = Transpose<perm = [1,2,0]>(b)",
    )
    assert kinds(source) == ["Relu", "Reshape", "Transpose"]


def test_heads_go_whose_keys_are_transposed_with_other_axes_merged() -> None:
    source = model(
        "(float[N,T,16] x) => (float[N,T,16] y) <float[16,24] wq, float[16,24] wk, float[16,24] wv, float[24,16] wo>",
        "q0 = MatMul(x, wq)\n k0 = MatMul(x, wk)\n v0 = MatMul(x, wv)\n q1 = Reshape(q0, heads)\n"
        "k1 = Reshape(k0, heads)\n v1 = Reshape(v0, heads)\n q = Transpose<perm = [0,2,1,3]>(q1)\n"
        f"k = Transpose<perm = [0,2,1,3]>(k1)\n v = Transpose<perm = [0,2,1,3]>(v1)\n {KEYS} s = MatMul(q, z)\n"
        "a = Softmax<axis = -1>(s)\n c = MatMul(a, v)\n m = Mul(c, keep)\n"
        "o = Transpose<perm = [0,2,1,3]>(m)\n w = Reshape(o, merged)\n y = MatMul(w, wo)",
        constants=INTS,
        heads=np.asarray([0, 0, 3, 8]),
        merged=np.asarray([0, 0, 24]),
        keep=mask(1, 0, 1),
    )
    result = compiled(source)
    assert [weight(result, "MatMul", which=which).shape for which in range(3)] == [(16, 16)] * 3
    exact(source)


@pytest.mark.parametrize("sizes", ["T,N", "5,N", "T,3", "5,3"])
def test_heads_that_are_merged_with_the_batch_part_at_once(sizes: str) -> None:
    time, batch = sizes.split(",")
    source = model(
        f"(float[{sizes},16] x) => (float[{batch},2,{time},8] y)",
        """t = Shape<end=1>(x)  n = Shape<start=1, end=2>(x)  nh = Mul(n, heads)
        rows = Concat<axis=0>(t, nh, size)  r = Reshape(x, rows)  p = Transpose<perm=[1,0,2]>(r)
        to = Concat<axis=0>(n, heads, t, size)  y = Reshape(p, to)""",
        constants={"heads": [2], "size": [8]},
    )
    assert kinds(source) == ["Reshape", "Transpose"]
    exact(source, T=(5,), N=(1, 3))


def test_an_axis_that_is_added_and_moves_away_again() -> None:
    body = "a = Unsqueeze(x, first)  b = Transpose<perm=[3,1,2,0,4]>(a)  y = Squeeze(b, third)"
    constants = {"first": [0], "third": [3]}
    source = model("(float[T,N,3,4] x) => (float[3,T,N,4] y)", body, constants=constants)
    assert kinds(source) == ["Transpose"]
    exact(source, T=(5,), N=(1, 3))
