"""Attention in the forms that exporters write, with masks on the channels of its heads."""

import numpy as np
import onnx

from tests.generators.form import assert_explained
from tests.passes.text import Array, compiled, model, random, weight

HEADS, SIZE = 4, 8
WIDTH = HEADS * SIZE

MASKED = """
    q0 = MatMul(x, wq)  q1 = Add(q0, bq)  q2 = Mul(q1, mq)
    k0 = MatMul(x, wk)  k1 = Add(k0, bk)  k2 = Mul(k1, mk)
    v0 = MatMul(x, wv)  v1 = Add(v0, bv)  v2 = Mul(v1, mv)
"""
BY_HEAD = """
    q3 = Reshape(q2, heads)  k3 = Reshape(k2, heads)  v3 = Reshape(v2, heads)
    q = Transpose<perm=[0,2,1,3]>(q3)  k = Transpose<perm=[0,2,3,1]>(k3)  v = Transpose<perm=[0,2,1,3]>(v3)
"""
SEPARATE = MASKED + BY_HEAD
FUSED = """
    p0 = MatMul(x, w)  p1 = Add(p0, b)  p2 = Mul(p1, m)  p3 = Reshape(p2, parts)
    p = Transpose<perm=[2,0,3,1,4]>(p3)
    q = Gather<axis=0>(p, zero)  kt = Gather<axis=0>(p, one)  v = Gather<axis=0>(p, minus)
    k = Transpose<perm=[0,1,3,2]>(kt)
"""
UNBOUND = """
    p0 = MatMul(x, w)  p1 = Add(p0, b)  p2 = Mul(p1, m)  p3 = Reshape(p2, parts)
    p = Transpose<perm=[2,0,3,1,4]>(p3)
    sq, sk, sv = Split<axis=0>(p, thirds)
    q = Squeeze(sq, first)  kt = Squeeze(sk, first)  v = Squeeze(sv, first)
    k = Transpose<perm=[0,1,3,2]>(kt)
"""
SPLIT = f"""
    p0 = MatMul(x, w)  p1 = Add(p0, b)  p2 = Mul(p1, m)
    q2, k2, v2 = Split<axis=2>(p2, widths) {BY_HEAD}
"""
INTERLEAVED = """
    p0 = MatMul(x, wi)  p1 = Add(p0, bi)  p2 = Mul(p1, mi)  p3 = Reshape(p2, each)
    p = Transpose<perm=[3,0,2,1,4]>(p3)
    sq = Slice(p, ends0, ends1, first)  sk = Slice(p, ends1, ends2, first)  sv = Slice(p, ends2, ends3, first)
    q = Squeeze(sq, first)  kt = Squeeze(sk, first)  v = Squeeze(sv, first)
    k = Transpose<perm=[0,1,3,2]>(kt)
"""
CHUNKED = """
    p0 = MatMul(x, wi)  p1 = Add(p0, bi)  p2 = Mul(p1, mi)  p3 = Reshape(p2, chunks)
    p = Transpose<perm=[0,2,1,3]>(p3)
    q, kt, v = Split<axis=3>(p, sizes)  k = Transpose<perm=[0,1,3,2]>(kt)
"""
# as PyTorch writes its MultiheadAttention: parts come first, and heads are merged with the batch and part from it
IN_BATCH = """
    xt = Transpose<perm=[1,0,2]>(x)  t = Shape<end=1>(xt)  n = Shape<start=1, end=2>(xt)  nh = Mul(n, many)
    p0 = MatMul(xt, w)  p1 = Add(p0, b)  p2 = Mul(p1, m)  to = Concat<axis=0>(t, n, three, wide)  p3 = Reshape(p2, to)
    p4 = Unsqueeze(p3, first)  p5 = Transpose<perm=[3,1,2,0,4]>(p4)  p = Squeeze(p5, three)
    q2 = Gather<axis=0>(p, zero)  k2 = Gather<axis=0>(p, one)  v2 = Gather<axis=0>(p, minus)
    rows = Concat<axis=0>(t, nh, size)  by = Concat<axis=0>(n, many, t, size)
    q3 = Reshape(q2, rows)  q4 = Transpose<perm=[1,0,2]>(q3)  q = Reshape(q4, by)
    k3 = Reshape(k2, rows)  k4 = Transpose<perm=[1,0,2]>(k3)  k5 = Reshape(k4, by)
    v3 = Reshape(v2, rows)  v4 = Transpose<perm=[1,0,2]>(v3)  v = Reshape(v4, by)
    k = Transpose<perm=[0,1,3,2]>(k5)
"""
FORMS = {
    "separate": SEPARATE,
    "interleaved": INTERLEAVED,
    "chunked": CHUNKED,
    "fused": FUSED,
    "unbound": UNBOUND,
    "split": SPLIT,
    "in the batch": IN_BATCH,
}
MERGED = "y1 = Transpose<perm=[0,2,1,3]>(y0)  y2 = Reshape(y1, together)  o = MatMul(y2, wo)"
BEHIND = f"qs = Mul(q, scale)  s = MatMul(qs, k)  a = Softmax<axis=-1>(s)  y0 = MatMul(a, v)  {MERGED}"


def attention(
    form: str,
    masks: Array,
    behind: str = BEHIND,
    time: str = "T",
    more: dict[str, Array] | None = None,
    *,
    opset: int = 17,
    inputs: str = "",
) -> onnx.ModelProto:
    """`masks`: float [3, width], of the queries, keys and values."""
    weights, biases = [random(16, WIDTH, seed=i) for i in range(3)], [random(WIDTH, seed=i + 3) for i in range(3)]
    given: dict[str, Array] = {
        "heads": np.asarray([0, -1, HEADS, SIZE]),
        "parts": np.asarray([0, -1, 3, HEADS, SIZE]),
        "together": np.asarray([0, -1, WIDTH]),
        "widths": np.asarray([WIDTH] * 3),
        "thirds": np.asarray([1, 1, 1]),
        "first": np.asarray([0]),
        "many": np.asarray([HEADS]),
        "three": np.asarray([3]),
        "wide": np.asarray([WIDTH]),
        "size": np.asarray([SIZE]),
        "each": np.asarray([0, -1, HEADS, 3, SIZE]),
        "chunks": np.asarray([0, -1, HEADS, 3 * SIZE]),
        "sizes": np.asarray([SIZE] * 3),
        "wi": np.stack([w.reshape(-1, HEADS, SIZE) for w in weights], axis=2).reshape(-1, 3 * WIDTH),
        "bi": np.stack([b.reshape(HEADS, SIZE) for b in biases], axis=1).reshape(-1),
        "mi": masks.reshape(3, HEADS, SIZE).transpose(1, 0, 2).reshape(-1).astype(np.float32),
        **{f"ends{i}": np.asarray([i]) for i in range(4)},
        "zero": np.asarray(0),
        "one": np.asarray(1),
        "minus": np.asarray(-1),
        "scale": np.float32(0.35),
        "wo": random(WIDTH, 5, seed=7),
        "w": np.concatenate(weights, axis=1),
        "b": np.concatenate(biases),
        "m": masks.reshape(-1).astype(np.float32),
    }
    for name, w, b, m in zip("qkv", weights, biases, masks, strict=True):
        given |= {f"w{name}": w, f"b{name}": b, f"m{name}": m.astype(np.float32)}
    given |= more or {}
    text = FORMS.get(form, form) + behind
    return model(f"(float[B,{time},16] x{inputs}) => (float[B,{time},5] o)", text, opset, constants=given)


def of_fewer_keys(masks: Array, keys: int) -> dict[str, Array]:
    """What makes as many heads of keys and values, masked as the first ones are."""
    given = {"fewer": np.asarray([0, -1, keys, SIZE])}
    for name, mask in zip("kv", masks[1:], strict=True):
        given |= {f"w{name}": random(16, keys * SIZE, seed=5), f"b{name}": random(keys * SIZE, seed=6)}
        given[f"m{name}"] = mask[: keys * SIZE].astype(np.float32)
    return given


def independent(seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((3, WIDTH)) < 0.5


def widths(masks: Array) -> list[int]:
    """As many channels of queries, keys and values as the fullest head keeps."""
    both, values = ((kept.reshape(HEADS, SIZE).sum(axis=1).max()) for kept in (masks[0] & masks[1], masks[2]))
    return [both * HEADS, both * HEADS, values * HEADS]


def columns(form: str, source: onnx.ModelProto) -> list[int]:
    """How many channels the products of queries, keys and values make."""
    result = compiled(source)
    assert_explained(result.report)
    if form == "split":
        sizes = next(n for n in result.model.graph.node if n.op_type == "Split").input[1]
        values = next(t for t in result.model.graph.initializer if t.name == sizes)
        return [int(v) for v in onnx.numpy_helper.to_array(values)]
    return [weight(result, "MatMul", which=i).shape[1] for i in range(3)]
