"""Fused attention: heads that are masked after it go from all around it, and it computes the others as before."""

from typing import Any

import numpy as np
import onnx
import pytest

from passes import count, shrink
from passes.ops import rules
from passes.sizes.prepare import checked
from tests.generators.form import assert_explained
from tests.marks import before_releases
from tests.maskc.build import changed
from tests.passes.text import Array, compiled, model, operators, random, weight

SIZE, TOKENS, BEFORE = 16, 3, 4

CACHE = ", float[B,{keys},P,16] pk, float[B,{keys},P,16] pv"
APART = "q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)"
TOGETHER = "p = MatMul(x, wp)"
TURNED = f"{APART}  q1 = {{turn}}<num_heads={{heads}}>(q, {{angles}})  k1 = {{turn}}<num_heads={{keys}}>(k, {{angles}})"
BY_HEAD = f"""{APART}
    q1 = Reshape(q, by_head)  k1 = Reshape(k, by_key)  v1 = Reshape(v, by_key)
    q2 = Transpose<perm=[0,2,1,3]>(q1)  k2 = Transpose<perm=[0,2,1,3]>(k1)  v2 = Transpose<perm=[0,2,1,3]>(v1)"""
MERGED = "y1 = Transpose<perm=[0,2,1,3]>(y0)  y = Reshape(y1, merged)"
STANDARD = "Attention<q_num_heads={heads}, kv_num_heads={keys}"
MANY = "com.microsoft.MultiHeadAttention<num_heads={heads}>"
GROUPED = "com.microsoft.GroupQueryAttention<num_heads={heads}, kv_num_heads={keys}"

#: by kind: heads of queries for each of keys, further inputs, and the nodes up to the result y
KINDS: dict[str, tuple[int, str, str]] = {
    "causal": (1, "", f"{APART}  y = {STANDARD}, is_causal=1>(q, k, v)"),
    "capped": (1, "", f"{APART}  y = {STANDARD}, softcap=2.0>(q, k, v)"),
    "groups": (2, "", f"{APART}  y = {STANDARD}>(q, k, v)"),
    "one group": (4, "", f"{APART}  y = {STANDARD}, is_causal=1>(q, k, v)"),
    "scores": (2, "", f"{APART}  y, pk, pv, s = {STANDARD}>(q, k, v)"),
    "mask by head": (1, ", float[1,{heads},3,3] m0", f"{APART}  y = {STANDARD}>(q, k, v, m0)"),
    "cache": (2, CACHE, f"{APART}  y, k9, v9 = {STANDARD}, is_causal=1>(q, k, v, , pk, pv)"),
    "axes of heads": (1, "", f"{BY_HEAD}  y0 = Attention<is_causal=1>(q2, k2, v2)  {MERGED}"),
    "axes of groups": (2, "", f"{BY_HEAD}  y0 = Attention<softcap=1.5>(q2, k2, v2)  {MERGED}"),
    "turned": (2, "", f"{TURNED}  y = {STANDARD}, is_causal=1>(q1, k1, v)"),
    "of ONNX Runtime": (1, "", f"{APART}  y = {MANY}(q, k, v)"),
    "of ONNX Runtime, bias": (1, "", f"{APART}  y = {MANY}(q, k, v, bias)"),
    "of ONNX Runtime, cache": (1, CACHE, f"{APART}  y, k9, v9 = {MANY}(q, k, v, , , , pk, pv)"),
    "of ONNX Runtime, turned": (1, "", f"{TURNED}  y = {MANY}(q1, k1, v)"),
    "grouped": (2, "", f"{APART}  y, k9, v9 = {GROUPED}>(q, k, v, , , lengths, total)"),
    "grouped, turned": (2, "", f"{APART}  y, k9, v9 = {GROUPED}, do_rotary=1>(q, k, v, , , lengths, total, cos, sin)"),
    "grouped, sinks": (2, "", f"{APART}  y, k9, v9 = {GROUPED}>(q, k, v, , , lengths, total, , , , , sinks)"),
    "grouped, together": (
        2,
        "",
        f"{TOGETHER}  y, k9, v9 = {GROUPED}, do_rotary=1>(p, , , , , lengths, total, cos, sin)",
    ),
}


def network(kind: str, groups: int, mask: Array, by: str = "product") -> onnx.ModelProto:
    """mask: of the channels after it, which `by` a product or by zero rows of the weights are zero."""
    times, inputs, body = KINDS[kind]
    heads, keys = groups * times, groups
    standard = "com.microsoft" not in body
    forms = {
        "heads": heads,
        "keys": keys,
        "turn": "RotaryEmbedding" if standard else "com.microsoft.RotaryEmbedding",
        "angles": "cos, sin, at" if standard else "at, cos, sin",
    }
    angles = np.random.default_rng(0).uniform(0, 3, (9, SIZE // 2))
    widths = {"wq": heads, "wk": keys, "wv": keys, "wp": heads + 2 * keys}
    given: dict[str, Any] = {name: random(8, n * SIZE, seed=n) for name, n in widths.items()}
    given |= {"wo": random(heads * SIZE, 5), "bias": random((heads + 2 * keys) * SIZE), "sinks": random(heads)}
    given |= {"by_head": np.asarray([0, 0, heads, SIZE]), "by_key": np.asarray([0, 0, keys, SIZE])}
    given |= {"merged": np.asarray([0, 0, heads * SIZE]), "cos": np.cos(angles), "sin": np.sin(angles)}
    given |= {"at": np.arange(TOKENS)[None], "m": mask.astype(np.float32), "total": np.int32(TOKENS)}
    given |= {"lengths": np.asarray([TOKENS - 1], np.int32)}
    given["wo"] = given["wo"] * (mask[:, None] if by == "weights" else 1)
    after = "g = Mul(y, m)  o = MatMul(g, wo)" if by == "product" and not mask.all() else "o = MatMul(y, wo)"
    signature = f"(float[B,3,8] x{inputs}) => (float[B,3,5] o)".replace("B", "1").replace("P", "4")
    text = f"{signature.format(**forms)} {{ {body.format(**forms)}  {after} }}"
    return model(text, None, 23, constants=given)


@pytest.mark.parametrize("by", ["product", "weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_masked_groups_go(kind: str, by: str) -> None:
    """What is left takes as much as the network with fewer."""
    times = KINDS[kind][0]
    mask = np.repeat([1, 0, 0, 1] if times < 4 else [1], SIZE * times)
    result = compiled(network(kind, len(mask) // SIZE // times, mask, by))
    fewer = network(kind, int(mask.sum()) // SIZE // times, np.ones(int(mask.sum())))
    assert result.report.after.macs == count(fewer).macs
    assert all(axis.removed == axis.masked for axis in result.report.masked)


@pytest.mark.parametrize("kind", [kind for kind, (times, _, _) in KINDS.items() if times > 1])
def test_a_head_of_each_group_goes(kind: str) -> None:
    times = KINDS[kind][0]
    mask = np.tile(np.repeat(np.arange(times) > 0, SIZE), 2)
    result = compiled(network(kind, 2, mask))
    assert all(axis.removed == axis.masked for axis in result.report.masked)
    assert result.report.after.macs < result.report.before.macs


def test_heads_that_groups_lose_unequally_stay_and_are_told() -> None:
    result = compiled(network("groups", 2, np.repeat([1, 0, 1, 1], SIZE)))
    (held,) = result.report.held
    assert (held.op, held.code, held.channels) == ("Attention", "K209", tuple(range(SIZE, 2 * SIZE)))
    assert result.report.after.macs == result.report.before.macs - 3 * SIZE * 5  # of the last product


def test_heads_whose_cache_the_caller_has_stay_and_are_told() -> None:
    source = network("cache", 2, np.repeat([1, 1, 0, 0], SIZE))
    cache = onnx.helper.make_tensor_value_info("k9", onnx.TensorProto.FLOAT, [1, 2, TOKENS + BEFORE, SIZE])
    source.graph.output.append(cache)
    result = compiled(source)
    (held,) = result.report.held
    assert (held.op, held.code, len(held.channels)) == ("Attention", "K209", 2 * SIZE)


def test_a_mask_has_all_heads_or_one_as_only_the_run_time_tells() -> None:
    source = network("mask by head", 4, np.repeat([0, 1, 0, 1], SIZE))
    for size in (1, 4):
        shape = source.graph.input[1].type.tensor_type.shape
        shape.dim[1].dim_param = "H"
        result = compiled(source, H=(size,))
        assert operators(result).count("Mod") == 1
        assert all(axis.removed == axis.masked for axis in result.report.masked)


@pytest.mark.parametrize("seed", [0, 1, *before_releases(2, 3, 4, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_mask(kind: str, seed: int) -> None:
    """Of queries, keys, values and results."""
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    source = network(kind, groups, rng.random(groups * KINDS[kind][0] * SIZE) < 0.5)

    def cut(values: Array) -> Array:
        channels = values.reshape(8, -1, SIZE)
        if rng.random() < 0.7:
            channels[:, rng.random(channels.shape[1]) < 0.4] = 0
        if rng.random() < 0.7:
            channels[:, :, rng.random(SIZE) < 0.4] = 0
        if rng.random() < 0.3:
            channels[:, rng.random(channels.shape[1:]) < 0.4] = 0
        return values

    for name in sorted({"wq", "wk", "wv", "wp"} & {t.name for t in source.graph.initializer}):
        source = changed(source, name, cut)
    assert_explained(compiled(source).report)


@pytest.mark.parametrize("kind", ["turned", "of ONNX Runtime, turned"])
def test_pairs_that_no_head_needs_go(kind: str) -> None:
    """With their angles, and from keys too where queries are without them."""
    heads = 2 * KINDS[kind][0]
    kept = np.tile(~np.isin(np.arange(SIZE), [3, 11, 5, 13, 6]), heads)  # without two pairs and one channel of a third
    result = compiled(changed(network(kind, 2, np.ones(heads * SIZE)), "wq", lambda values: values * kept))
    assert [weight(result, "MatMul", which=i).shape[1] for i in range(3)] == [12 * heads, 24, 2 * SIZE]
    assert [held.channels for held in result.report.held] == [tuple(range(6, heads * SIZE, SIZE))]


def test_values_whose_sizes_are_computed_are_as_narrow_as_they_are() -> None:
    """All new ones are zero, and of those before one channel is read: runtimes are told that it is one."""
    source = changed(network("cache", 1, np.arange(2 * SIZE) == 0), "wv", np.zeros_like)
    source.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "T"
    source.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "T"
    assert weight(compiled(source, T=(1, 3)), "MatMul", which=2).shape == (1, 5)


@pytest.mark.parametrize("low", [-np.inf, -1e4])
def test_a_query_that_is_kept_from_all_keys_has_no_mean_of_values(low: float) -> None:
    """So that what is constant of all values is not always that of the result."""
    source = model(
        f"(float[2,3,8] x, bool[3,3] keep) => (float[2,3,5] o) <float[8,{2 * SIZE}] wq, float[8,{2 * SIZE}] wk, "
        f"float[8,{2 * SIZE}] wv, float[{2 * SIZE}] b, float zero = {{0}}, float[{2 * SIZE},5] wo>",
        """q = MatMul(x, wq)  k = MatMul(x, wk)  v0 = MatMul(x, wv)  v1 = Mul(v0, m)  v = Add(v1, b)
        a = Where(keep, zero, low)  y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v, a)  o = MatMul(y, wo)""",
        23,
        m=np.repeat([0.0, 1.0], SIZE),
        low=np.float32(low),
    )
    halved = weight(compiled(source), "MatMul", which=0).shape[1] == SIZE
    assert halved == np.isfinite(low)


def test_values_and_those_before_are_no_sum() -> None:
    """New ones that are 1, and ones before that are -1."""
    source = changed(network("cache", 2, np.ones(4 * SIZE)), "wv", np.zeros_like)
    source.graph.node[2].output[0] = "v0"
    source.graph.node.insert(3, onnx.helper.make_node("Add", ["v0", "one"], ["v"]))
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2 * SIZE, np.float32), "one"))
    before = np.full((1, 2, BEFORE, SIZE), -1, np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(before, "pv"))
    del source.graph.input[2]
    compiled(source)


@pytest.mark.parametrize("together", [False, True])
def test_heads_of_packed_attention_go(together: bool) -> None:
    """ONNX Runtime has it for GPUs alone, so that it is not run."""

    def packed(heads: int, mask: Array) -> onnx.ModelProto:
        product = "p = MatMul(x, w)  q, k, v = Split<axis=1, num_outputs=3>(p)"
        node = f"{product}  y = com.microsoft.PackedMultiHeadAttention<num_heads={heads}>(q, k, v, b, at, ends)"
        if together:
            node = f"y = com.microsoft.PackedAttention<num_heads={heads}>(x, w, b, at, ends)"
        signature = "(float[N,8] x, int32[B,7] at, int32[E] ends) => (float[N,5] o)"
        wide = heads * SIZE
        weights: dict[str, Any] = {"w": (8, 3 * wide), "b": (3 * wide,), "wo": (wide, 5), "m": mask.astype(np.float32)}
        return model(signature, f"{node}  g = Mul(y, m)  o = MatMul(g, wo)", 18, **weights)

    result = shrink(packed(4, np.repeat([1, 0, 0, 1], SIZE)))
    fewer = shrink(packed(2, np.ones(2 * SIZE)))
    after, wanted = result.report.after, fewer.report.after
    assert (after.macs, after.params) == (wanted.macs, wanted.params)
    assert "PackedMultiHeadAttention" in operators(result)
    assert all(axis.removed == axis.masked for axis in result.report.masked)


def test_heads_of_queries_go_beside_caches_whose_channels_are_an_open_size() -> None:
    """As in files for ONNX Runtime GenAI: who runs them knows."""
    source = network("grouped", 2, np.tile(np.repeat([0, 1], SIZE), 2))
    (node,) = (n for n in source.graph.node if n.op_type == "GroupQueryAttention")
    for index, name in ((3, "pk"), (4, "pv")):
        node.input[index] = name
        cache = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2, BEFORE, "D"])
        source.graph.input.append(cache)
    for name in ("total", "lengths"):
        source = changed(source, name, lambda count: count + BEFORE)
    result = compiled(source, D=(SIZE,))
    assert all(axis.removed == axis.masked for axis in result.report.masked)
    assert weight(result, "MatMul", which=0).shape[1] == 2 * SIZE
    assert result.report.before.at.sizes["pk"] == (1, 2, BEFORE, SIZE)


def test_what_lies_together_has_a_cost_at_any_size() -> None:
    """At such as heads never have: the polynomial of a cost is found by trying some."""
    graph = checked(network("grouped, together", 2, np.ones(4 * SIZE)))
    (node,) = (n for n in graph.nodes if n.op == "GroupQueryAttention")
    op, costs = rules(node), []
    for size in (128, 129, 130):
        node.inputs[0].shape = [1, TOKENS, size]
        costs.append(op.cost(node)[0])
    assert costs == sorted(costs)
