"""Attention: channels of heads, known jointly."""

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.generators.form import assert_explained
from tests.passes.text import Array, compiled, model, operators, random, weight

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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("time", ["T", "6"])
def test_each_head_keeps_its_own_channels_as_many_as_the_fullest_one(form: str, time: str) -> None:
    masks = independent()
    assert columns(form, attention(form, masks, time=time)) == widths(masks)


def test_parts_of_open_sizes_where_a_zero_would_be_a_size() -> None:
    """The sizes are computed, and a Reshape for each part copies those that are open."""
    sizes = "open = Shape<end=2>(x)  to = Concat<axis=0>(open, apart)  p3 = Reshape<allowzero=1>(p2, to)"
    masks, form = independent(), INTERLEAVED.replace("p3 = Reshape(p2, each)", sizes)
    assert columns(form, attention(form, masks, more={"apart": np.asarray([HEADS, 3, SIZE])})) == widths(masks)


@pytest.mark.parametrize("form", ["separate", "fused"])
def test_channels_are_followed_through_what_computes_each_by_itself(form: str) -> None:
    each = """qe = Relu(q)  ke = Tanh(k)  g = ReduceMean<axes=[2]>(x)  gate = Unsqueeze(g, axis)  ve = Mul(v, gate)"""
    behind = each + BEHIND.replace("(q, ", "(qe, ").replace(", k)", ", ke)").replace(", v)", ", ve)")
    masks, axis = independent(), {"axis": np.array([1])}
    assert columns(form, attention(form, masks, behind, more=axis)) == widths(masks)


@pytest.mark.parametrize("shape", [(HEADS, 1, 1), (1, SIZE), (HEADS, 1, SIZE)])
def test_channels_with_gains_of_their_own_go_and_keep_their_order(shape: tuple[int, ...]) -> None:
    gain = {"gain": random(*shape, seed=9)}
    behind = "qe = Mul(q, gain)  ve = Mul(gain, v)" + BEHIND.replace("(q, ", "(qe, ").replace(", v)", ", ve)")
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[0, :, 2] = masks[1, :, [4, 5]] = masks[2, :, :3] = False
    found = columns("separate", attention("separate", masks.reshape(3, WIDTH), behind, more=gain))
    assert found == [HEADS * (SIZE - 3)] * 3
    compiled(attention("separate", independent(), behind, more=gain))


LENGTHS = {
    "norm": "{0}n = ReduceL2<axes=[{1}]>({0})  {0}d = Clip({0}n, least)  {0}e = Div({0}, {0}d)",
    "norm that is repeated": "{0}n = ReduceL2<axes=[{1}]>({0})  {0}d = Clip({0}n, least)  {0}z = Shape({0})"
    "  {0}r = Expand({0}d, {0}z)  {0}e = Div({0}, {0}r)",
    "sum of squares": "{0}x = Mul({0}, {0})  {0}n = ReduceSum({0}x, axis{1})  {0}a = Add({0}n, least)"
    "  {0}r = Sqrt({0}a)  {0}f = Reciprocal({0}r)  {0}e = Mul({0}, {0}f)",
    "root mean square with a gain": "{0}x = Pow({0}, two)  {0}n = ReduceMean<axes=[{1}]>({0}x)"
    "  {0}a = Add({0}n, least)  {0}r = Sqrt({0}a)  {0}f = Div({0}, {0}r)  {0}e = Mul({0}f, gain{1})",
}


@pytest.mark.parametrize("length", LENGTHS)
def test_heads_are_followed_past_their_lengths(length: str) -> None:
    """Queries and keys of cosine attention are divided by their lengths, and the same channels of both are masked."""
    masks = independent()
    masks[1] = masks[0]
    behind = LENGTHS[length].format("q", 3) + LENGTHS[length].format("k", 2)
    more: dict[str, Array] = {"least": np.float32(1e-6), "two": np.float32(2)}
    more |= {"axis2": np.array([2]), "axis3": np.array([3]), "gain2": random(SIZE, 1), "gain3": random(SIZE, seed=1)}
    source = attention("separate", masks, behind + BEHIND.replace("(q, ", "(qe, ").replace(", k)", ", ke)"), more=more)
    assert columns("separate", source) == widths(masks)


@pytest.mark.parametrize("least", [1e-6, 0.0])
def test_a_head_of_length_zero_is_no_zero(least: float) -> None:
    """Of a head that is masked whole, each channel is divided by nothing, unless a length is at least something."""
    masks = independent()
    masks[2, :SIZE] = False
    behind = "vn = ReduceL2<axes=[3]>(v)  vd = Max(vn, least)  ve = Div(v, vd)" + BEHIND.replace(", v)", ", ve)")
    compiled(attention("separate", masks, behind, more={"least": np.float32(least)}))


@pytest.mark.parametrize("masked", [True, False])
def test_numbers_that_are_added_go_with_their_channels(masked: bool) -> None:
    """As in Transformer-XL: what is added to masked channels counts where those of the keys are not masked as well."""
    behind = f"""qu = Add(q, u)  qt = Sub(q, t)  s1 = MatMul(qu, k)  s2 = MatMul(qt, kc)  s = Sum(s1, s2)
        a = Softmax<axis=-1>(s)  va = Add(r, v)  y0 = MatMul(a, va)  {MERGED}"""
    masks = independent()
    masks[1] = masks[0]
    kept = masks[0].reshape(HEADS, 1, SIZE) if masked else np.ones((HEADS, 1, SIZE))
    more: dict[str, Array] = {"u": random(HEADS, 1, SIZE) * kept, "t": random(HEADS, 1, SIZE, seed=1) * kept}
    more |= {"kc": random(HEADS, SIZE, 6, seed=2) * masks[0].reshape(HEADS, SIZE, 1)}
    more |= {"r": random(HEADS, 1, SIZE, seed=3) * masks[2].reshape(HEADS, 1, SIZE)}
    source = attention("separate", masks, behind, "6", more)
    assert columns("separate", source) == widths(masks)
    compiled(attention("separate", independent(), behind, "6", more))
    compiled(attention("separate", independent(), behind, "6", more | {"r": random(HEADS, 1, SIZE, seed=4)}))


@pytest.mark.parametrize("behind", [True, False])
def test_biases_behind_the_split_into_heads(behind: bool) -> None:
    """As Keras writes its MultiHeadAttention; masks are behind the biases, or ahead with a bias left of keys alone."""
    masks = independent()
    more = {f"n{name}": mask.reshape(HEADS, SIZE).astype(np.float32) for name, mask in zip("qkv", masks, strict=True)}
    biases = {name: random(HEADS, SIZE, seed=i) for i, name in enumerate("qkv")}
    more |= {f"h{n}": bias if behind or n == "k" else bias * more[f"n{n}"] for n, bias in biases.items()}
    parts = [
        f"s{n} = MatMul(x, w{n})  t{n} = Reshape(s{n}, heads)"
        + (
            f"  u{n} = Add(t{n}, h{n})  {n}3 = Mul(u{n}, n{n})"
            if behind
            else f"  u{n} = Mul(t{n}, n{n})  {n}3 = Add(u{n}, h{n})"
        )
        for n in "qkv"
    ]
    form = "  ".join([*parts, BY_HEAD.split("v3 = Reshape(v2, heads)")[1]])
    result = compiled(attention(form, masks, more=more))
    kept = [t.dims[1] for t in result.model.graph.initializer if t.dims[:1] == [16]]
    queries = masks[0].reshape(HEADS, SIZE).sum(axis=1).max() * HEADS
    assert sorted(kept) == sorted(widths(masks) if behind else [queries, queries, widths(masks)[2]])


def test_a_mask_of_heads_behind_biases_alone() -> None:
    """As `prunable` masks Keras's attention, by a number for each head, where all before its biases is masked."""
    head = np.ones((HEADS, 1), np.float32)
    head[1] = 0
    biases = {f"h{name}": random(HEADS, SIZE, seed=i) for i, name in enumerate("qkv")}
    parts = [f"s{n} = MatMul(z, w{n})  t{n} = Reshape(s{n}, heads)  {n}3 = Add(t{n}, h{n})" for n in "qkv"]
    form = "  ".join(["z = Mul(x, none)", *parts, BY_HEAD.split("v3 = Reshape(v2, heads)")[1]])
    behind = BEHIND.replace("y2 = Reshape(y1", "y3 = Mul(y1, head)  y2 = Reshape(y3")
    more = {"head": head, "none": np.zeros(16, np.float32), **biases}
    result = compiled(attention(form, np.ones((3, WIDTH)), behind, more=more))
    assert not [t for t in result.model.graph.initializer if t.dims[:1] == [16]]


def test_keys_of_learned_queries() -> None:
    """Numbers that keys are multiplied with go with their channels, and keys count where these are not zero."""
    behind = f"s = MatMul(c, k)  a = Softmax<axis=-1>(s)  y0 = MatMul(a, v)  {MERGED}"
    masks = independent()
    more: dict[str, Array] = {"c": random(1, HEADS, 6, SIZE) * masks[0].reshape(1, HEADS, 1, SIZE)}
    result = compiled(attention("separate", masks, behind, "6", more))
    found = [weight(result, "MatMul", which=i).shape[1] for i in range(2)]
    assert found == widths(masks)[1:]
    for shared in (random(1, 1, 6, SIZE), random(6, SIZE)):
        compiled(attention("separate", masks, behind, "6", {"c": shared}))


def test_heads_that_are_split_as_frames_join_the_batch() -> None:
    """One Reshape does both, where the number of frames is known."""
    masks = independent()
    text = """q2 = MatMul(x, wq)  q1 = Mul(q2, mq)  q3 = Reshape(q1, split)  q = Transpose<perm=[0,2,1,3]>(q3)
        k2 = MatMul(x, wk)  k1 = Mul(k2, mk)  k3 = Reshape(k1, split)  k = Transpose<perm=[0,2,3,1]>(k3)
        v2 = MatMul(x, wv)  v1 = Mul(v2, mv)  v3 = Reshape(v1, split)  v = Transpose<perm=[0,2,1,3]>(v3)
        s = MatMul(q, k)  a = Softmax<axis=-1>(s)  y0 = MatMul(a, v)  y1 = Transpose<perm=[0,2,1,3]>(y0)
        y2 = Reshape(y1, back)  o = MatMul(y2, wo)"""
    given = {f"w{name}": random(16, WIDTH, seed=i) for i, name in enumerate("qkv")}
    given |= {f"m{name}": mask.astype(np.float32) for name, mask in zip("qkv", masks, strict=True)}
    given |= {"split": np.array([-1, 5, HEADS, SIZE]), "back": np.array([-1, 3, 5, WIDTH]), "wo": random(WIDTH, 4)}
    source = model("(float[B,3,5,16] x) => (float[B,3,5,4] o)", text, constants=given)
    assert columns("separate", source) == widths(masks)


OVER_TOKENS = {
    "product": "s = MatMul(kp, v)  y0 = MatMul(qr, s)",
    "scaled and turned": """s = MatMul(kp, v)  t = Mul(s, scale)  u = Transpose<perm=[0,1,3,2]>(t)
        w = Transpose<perm=[0,1,3,2]>(u)  y0 = MatMul(qr, w)""",
    "quotient": """s = MatMul(kp, v)  a = MatMul(qr, s)  r = ReduceSum<keepdims=1>(kp, last)  z = MatMul(qr, r)
        e = Add(z, scale)  y0 = Div(a, e)""",
    "einsum": """kn = Transpose<perm=[0,1,3,2]>(kp)  s = Einsum<equation="bhnd,bhne->bhed">(kn, v)
        y0 = Einsum<equation="bhed,bhnd->bhne">(s, qr)""",
}


@pytest.mark.parametrize("form", OVER_TOKENS)
def test_channels_are_followed_through_products_over_tokens(form: str) -> None:
    """Those of queries, keys and values in linear attention, where each head keeps its own."""
    masks = independent().reshape(3, HEADS, SIZE)
    masks[:2, :, 0] = True  # no head is zero
    masks = masks.reshape(3, WIDTH)
    behind = f"qr = Relu(q)  kp = Relu(k)  {OVER_TOKENS[form]}  {MERGED}"
    assert columns("separate", attention("separate", masks, behind, more={"last": np.array([3])})) == widths(masks)


@pytest.mark.parametrize(
    "more",
    [
        "r = ReduceSum<keepdims=1>(s, two)  y0 = Add(a, r)",
        "r = ReduceSum<keepdims=1>(s, last)  t = Transpose<perm=[0,1,3,2]>(r)  z = MatMul(t, s)  y0 = Add(a, z)",
        "i = QuantizeLinear(s, scale)  r = DequantizeLinear(i, scale)  z = MatMul(q, r)  y0 = Add(a, z)",
        "f = Softmax<axis=2>(s)  z = MatMul(q, f)  y0 = Add(a, z)",
    ],
)
def test_products_over_tokens_of_which_more_is_made(more: str) -> None:
    """What is done to rows and columns counts for the channels of both factors."""
    behind = f"kp = Relu(k)  s = MatMul(kp, v)  a = MatMul(q, s)  {more}  {MERGED}"
    operands = {"two": np.array([2]), "last": np.array([3])}
    compiled(attention("separate", independent(), behind, more=operands))


@pytest.mark.parametrize("feature", ["Relu", "Exp", "Tanh"])
def test_values_and_a_row_of_ones_are_weighted_together(feature: str) -> None:
    """As in EfficientViT: the row of the ones is what the others are divided by."""
    behind = f"""kp = {feature}(k)  kt = Transpose<perm=[0,1,3,2]>(kp)  qp = {feature}(q)
        qt = Transpose<perm=[0,1,3,2]>(qp)  vt = Transpose<perm=[0,1,3,2]>(v)  one_more = Pad(vt, pads, unit)
        s = MatMul(one_more, kt)  r = MatMul(s, qt)
        n = Slice(r, ends0, end, axis)  z = Slice(r, end, past, axis)  e = Add(z, least)  d = Div(n, e)
        y0 = Transpose<perm=[0,1,3,2]>(d)  {MERGED}"""
    more: dict[str, Array] = {"unit": np.float32(1), "least": np.float32(1e-6), "axis": np.asarray([2])}
    more |= {"end": np.asarray([SIZE]), "past": np.asarray([SIZE + 1]), "pads": np.asarray([0, 0, 0, 0, 0, 0, 1, 0])}
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[2] = np.arange(SIZE) < 3
    found = columns("separate", attention("separate", masks.reshape(3, WIDTH), behind, more=more))
    assert found[2] == (WIDTH if feature == "Tanh" else HEADS * 3)


@pytest.mark.parametrize("product", ["MatMul", 'Einsum<equation="bhtc,bhcj->bhtj">'])
@pytest.mark.parametrize(
    "feature", ["q5 = Relu(q)  k5 = Relu(k)", "q4 = Elu(q)  k4 = Elu(k)  q5 = Add(q4, unit)  k5 = Add(k4, unit)"]
)
@pytest.mark.parametrize("heads", [True, False])
def test_linear_attention_divides_by_no_zero(product: str, feature: str, heads: bool) -> None:
    """What is summed of features that are not negative, and a little more, leaves values that are zero as they are."""
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[2] = independent()[2].reshape(HEADS, SIZE) if not heads else np.asarray([1, 0, 0, 1])[:, None]
    behind = f"""{feature}  s = MatMul(k5, v)  n = {product}(q5, s)  z = ReduceSum(k5, rows)  d = {product}(q5, z)
        e = Add(d, least)  y0 = Div(n, e)  {MERGED}"""
    more: dict[str, Array] = {"unit": np.float32(1), "least": np.float32(1e-6), "rows": np.asarray([3])}
    found = columns("separate", attention("separate", masks.reshape(3, WIDTH), behind, more=more))
    assert found == ([WIDTH // 2] * 3 if heads else widths(masks.reshape(3, WIDTH)))


@pytest.mark.parametrize("back", ["zero_point", "other"])
def test_heads_are_followed_through_steps_of_one_scale(back: str) -> None:
    """Between a product and its heads, and behind the reshape; but where a zero is read as another number."""
    form = SEPARATE
    more = {"step": np.float32(0.1), "zero_point": np.asarray(7, np.int8), "other": np.asarray(8, np.int8)}
    for name in "qkv":
        form = form.replace(
            f"{name}3 = Reshape({name}2, heads)",
            f"{name}4 = QuantizeLinear({name}2, step, zero_point)  {name}5 = DequantizeLinear({name}4, step, {back})"
            f"  {name}6 = Reshape({name}5, heads)  {name}7 = QuantizeLinear({name}6, step, zero_point)"
            f"  {name}3 = DequantizeLinear({name}7, step, {back})",
        )
    masks = independent()
    result = compiled(attention(form, masks, more=more))
    if back == "zero_point":
        assert [weight(result, "MatMul", which=i).shape[1] for i in range(3)] == widths(masks)
        assert not {"Gather", "Pad"} & set(operators(result)[: operators(result).index("Softmax")])


COPIES = {
    "Expand": "{0}6 = Expand({0}5, times)",
    "Tile": "{0}6 = Tile({0}5, times)",
    "sizes of which none is -1": "{0}b = Shape<end=1>({0}4)  {0}t = Shape<start=2, end=3>({0}4)"
    "  {0}w = Concat<axis=0>({0}b, keys, copies, {0}t, size)  {0}e = Equal({0}w, none)"
    "  {0}s = Where({0}e, ones, {0}w)  {0}6 = Expand({0}5, {0}s)",
}


@pytest.mark.parametrize("copies", COPIES)
@pytest.mark.parametrize("keys", [1, 2])
@pytest.mark.parametrize("time", ["T", "6"])
def test_queries_that_share_keys_have_their_channels_in_one_order(keys: int, time: str, copies: str) -> None:
    """Keys and values are repeated for the heads of queries, as PyTorch writes grouped-query attention."""
    form = SEPARATE
    for name in "kv":
        form = form.replace(f"{name}3 = Reshape({name}2, heads)", f"{name}3 = Reshape({name}2, fewer)")
        turned = "0,2,3,1" if name == "k" else "0,2,1,3"
        form = form.replace(
            f"{name} = Transpose<perm=[{turned}]>({name}3)",
            f"{name}4 = Transpose<perm=[0,2,1,3]>({name}3)  {name}5 = Unsqueeze({name}4, two)"
            f"  {COPIES[copies].format(name)}  {name}7 = Shape<end=1>(x)  {name}8 = Shape<start=1, end=2>(x)"
            f"  {name}9 = Concat<axis=0>({name}7, four, {name}8, size)  {name}a = Reshape({name}6, {name}9)"
            f"  {name} = " + (f"Transpose<perm=[0,1,3,2]>({name}a)" if name == "k" else f"Identity({name}a)"),
        )
    masks = independent()
    more = of_fewer_keys(masks, keys) | {
        "two": np.asarray([2]),
        "times": np.asarray([1, 1, HEADS // keys, 1, 1]),
        "keys": np.asarray([keys]),
        "copies": np.asarray([HEADS // keys]),
        "none": np.full(5, -1),
        "ones": np.ones(5, np.int64),
        "four": np.asarray([HEADS]),
    }
    queries, (key, value) = masks[0].reshape(keys, -1, SIZE), masks[1:, : keys * SIZE].reshape(2, keys, SIZE)
    both, values = (queries.any(axis=1) & key).sum(axis=1).max(), value.sum(axis=1).max()
    found = columns("separate", attention(form, masks, time=time, more=more))
    assert found == [both * HEADS, both * keys, values * keys]


@pytest.mark.parametrize("form", FORMS)
def test_whole_heads_go_with_their_values(form: str) -> None:
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[2, [0, 2]] = False
    assert columns(form, attention(form, masks.reshape(3, WIDTH))) == [WIDTH // 2] * 3


@pytest.mark.parametrize("form", FORMS)
def test_inner_channels_that_all_heads_mask_go(form: str) -> None:
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[0, :, 2] = masks[1, :, [4, 5]] = masks[2, :, :3] = False
    found = columns(form, attention(form, masks.reshape(3, WIDTH)))
    assert found == [HEADS * (SIZE - 3)] * 3


def test_the_order_of_channels_is_in_the_weights() -> None:
    equal = np.stack([np.random.default_rng(i).permutation(SIZE) < 4 for i in range(HEADS)]).reshape(-1)
    result = compiled(attention("separate", np.stack([equal] * 3)))
    assert not {"Gather", "Pad", "Concat"} & set(operators(result))
    assert weight(result, "MatMul", which=5).shape == (WIDTH // 2, 5)


@pytest.mark.parametrize("steps", [False, True])
def test_merged_heads_are_read_whole_where_that_is_cheaper_than_to_pick_channels(steps: bool) -> None:
    masks, behind, more = independent(), BEHIND, dict[str, Array]()
    if steps:
        behind = BEHIND.replace("MatMul(y2, wo)", "MatMul(y4, wo)").replace(
            "o =", "y3 = QuantizeLinear(y2, step, zp)  y4 = DequantizeLinear(y3, step, zp)  o ="
        )
        more = {"step": np.float32(0.05), "zp": np.asarray(0, np.int8)}
    source = attention("separate", masks, behind, more=more)
    whole, least = compiled(source, align=1), compiled(source)  # for speed, and for the fewest FLOPs
    assert "Gather" not in operators(whole)
    assert weight(whole, "MatMul", which=5).shape[0] == widths(masks)[2]
    assert weight(least, "MatMul", which=5).shape[0] == masks[2].sum()


@pytest.mark.parametrize(
    "behind",
    [
        BEHIND.replace("y0 = MatMul(a, v)", "e = Erf(q)  a2 = MatMul(s, e)  y0 = Add(a2, v)"),
        BEHIND.replace("o = MatMul(y2, wo)", "o1 = MatMul(y2, wo)  o2 = MatMul(v2, wo)  o = Add(o1, o2)"),
        BEHIND.replace("y0 = MatMul(a, v)", "v9 = Add(v, scale)  y0 = MatMul(a, v9)"),
    ],
    ids=["queries read elsewhere", "values read before they are split", "values shifted"],
)
def test_channels_that_others_read_keep_their_place(behind: str) -> None:
    compiled(attention("separate", independent(), behind))


def test_merged_channels_that_are_masked_again_are_not_made() -> None:
    behind = BEHIND.replace("o = MatMul(y2, wo)", "y3 = Mul(y2, mk)  o = MatMul(y3, wo)")
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[1] = np.stack([np.random.default_rng(i).permutation(SIZE) < 4 for i in range(HEADS)])
    result = compiled(attention("separate", masks.reshape(3, WIDTH), behind))
    assert weight(result, "MatMul", which=2).shape[1] == WIDTH // 2


@pytest.mark.parametrize("form", FORMS)
def test_values_lose_what_a_mask_behind_attention_hides(form: str) -> None:
    """Though nothing of the product is masked that makes the queries and keys as well."""
    behind = BEHIND.replace("y0 = MatMul(a, v)", "y9 = MatMul(a, v)  y0 = Mul(y9, mc)")
    more = {"mc": (np.arange(SIZE) % 4 == 0).astype(np.float32)}
    report = compiled(attention(form, np.ones((3, WIDTH)), behind, more=more)).report
    unread = WIDTH - HEADS * 2
    assert report.before.params - report.after.params >= unread * (16 + 1)


@pytest.mark.parametrize("tensor", ["v2", "y3"])
def test_channels_are_masked_where_the_mask_is(tensor: str) -> None:
    """That of merged channels masks no values, though nothing reads these; with that of values it says nothing new."""
    behind = BEHIND.replace("o = MatMul(y2, wo)", "y3 = Mul(y2, mc)  o = MatMul(y3, wo)")
    masks, mask = np.ones((3, WIDTH)), independent()[2]
    if tensor == "v2":
        masks[2] = mask
    report = compiled(attention("separate", masks, behind, more={"mc": mask.astype(np.float32)})).report
    assert [(axis.tensor, axis.masked) for axis in report.masked] == [(tensor, int((~mask).sum()))]


@pytest.mark.parametrize("form", ["separate", "split"])
def test_a_mean_of_a_constant_is_the_constant(form: str) -> None:
    """Masked values with a bias behind the mask."""
    masks = np.ones((3, WIDTH), bool)
    masks[2] = np.stack([np.random.default_rng(i).permutation(SIZE) < 3 for i in range(HEADS)]).reshape(-1)
    text = FORMS[form].replace("v3 = Reshape(v2, heads)", "v9 = Add(v2, bv2)  v3 = Reshape(v9, heads)")
    source = attention(text, masks, more={"bv2": random(WIDTH, seed=11)})
    result = compiled(source)
    product = 2 if form == "separate" else 0  # which makes the values
    assert weight(result, "MatMul", which=product).shape[1] in (3 * HEADS, 2 * WIDTH + 3 * HEADS)


def test_columns_of_values_that_hold_a_constant_pass_through_a_softmax() -> None:
    source = model(
        f"(float[B,T,16] x) => (float[B,T,5] o) <float[16,8] wq, float[16,{WIDTH}] wv, float[{WIDTH}] bv, "
        f"float[{WIDTH},5] wo>",
        "s0 = MatMul(x, wq)  st = Transpose<perm=[0,2,1]>(s0)  s = MatMul(s0, st)  a = Softmax<axis=-1>(s)"
        "  v0 = MatMul(x, wv)  v1 = Mul(v0, mv)  v = Add(v1, bv)  y = MatMul(a, v)  o = MatMul(y, wo)",
        mv=(np.arange(WIDTH) % 4 == 0).astype(np.float32),
    )
    result = compiled(source)
    assert weight(result, "MatMul", which=2).shape[1] == WIDTH // 4
    assert weight(result, "MatMul", which=4).shape[0] == WIDTH // 4


@pytest.mark.parametrize("values", ["some", "a head", "all"])
@pytest.mark.parametrize("read", ["inside", "outside"])
@pytest.mark.parametrize("scale", [False, True])
def test_constants_that_are_seen_behind_the_heads_stay_what_they_are(values: str, read: str, scale: bool) -> None:
    """Where merged channels are an output, or are known to be constant anyway, nobody writes the constants again."""
    kept = {"some": independent(1)[0], "a head": np.arange(WIDTH) >= SIZE, "all": np.zeros(WIDTH, bool)}[values]
    form = SEPARATE.replace("v2 = Mul(v1, mv)", "v2 = Where(kept, v1, other)")
    behind = BEHIND
    if scale:
        behind = behind.replace("y0 = MatMul(a, v)", "yv = MatMul(a, v)  y0 = Mul(yv, scale)")
    source = attention(form, np.ones((3, WIDTH)), behind, more={"kept": kept, "other": np.float32(0.7)})
    if read == "outside":
        merged = onnx.helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, ["B", "T", WIDTH])
        source.graph.output.append(merged)
    compiled(source)


def test_a_bias_of_masked_channels_alone_leaves_no_addition() -> None:
    masks = independent(4)
    bias = {f"b{name}": np.where(kept, 0, 1.0) for name, kept in zip("qkv", masks, strict=True)}
    assert "Add" not in operators(compiled(attention("separate", masks, more=bias)))


def test_nothing_changes_without_masks() -> None:
    source = attention("fused", np.ones((3, WIDTH)))
    assert shrink(source).report.after.macs == shrink(source).report.before.macs
    assert operators(compiled(source)).count("MatMul") == 4


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
