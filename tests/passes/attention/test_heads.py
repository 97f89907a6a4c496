"""Attention: channels of heads, known jointly."""

import re

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.passes.attention.heads import (
    BEHIND,
    BY_HEAD,
    FORMS,
    HEADS,
    INTERLEAVED,
    MERGED,
    SEPARATE,
    SIZE,
    WIDTH,
    attention,
    columns,
    independent,
    of_fewer_keys,
    widths,
)
from tests.passes.text import Array, compiled, model, operators, random, weight


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


@pytest.mark.parametrize("form", ["fused", "unbound"])
def test_products_of_integers_are_made_in_parts(form: str) -> None:
    """Each of queries, keys and values has a product of its own, whose data are quantised by their range."""
    sizes = {"w": (16, 3 * WIDTH), "wo": (WIDTH, 5)}
    steps = {name: np.random.default_rng(1).integers(-90, 90, size, np.int8) for name, size in sizes.items()}
    text = re.sub(
        r"(\w+) = MatMul\((x|y2), (w|wo)\)",
        r"\1q, \1s, \1z = DynamicQuantizeLinear(\2)  \1i = MatMulInteger(\1q, \3, \1z)  \1f = Cast<to=1>(\1i)"
        r"  \1t = Mul(\1s, step)  \1 = Mul(\1f, \1t)",
        FORMS[form] + BEHIND,
    )
    masks = np.stack([np.random.default_rng(i).permutation(SIZE) < 4 for i in range(3 * HEADS)]).reshape(3, WIDTH)
    masks[1] = masks[0]
    result = compiled(attention(text, masks, "", more={**steps, "step": np.float32(0.01)}))
    assert operators(result).count("MatMulInteger") == 4
    assert not {"Gather", "Pad", "Concat"} & set(operators(result))


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
