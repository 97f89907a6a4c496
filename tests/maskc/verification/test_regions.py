"""Regions: what differs is refused with its place, and what rounding does is accepted."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.frontend.graph_queries import copied
from maskc.verification.compare_regions import compare_regions, graph_of
from maskc.verification.random_operators import load_repeatable
from maskc.verification.recheck import Array, Boundary, Checker, Claim, Graph, session
from maskc.verification.regions.checker import AS_SEEN
from maskc.verification.regions.hidden_differences import first_failure
from maskc.verification.regions.search import confirmed, prove
from passes import shrink
from tests.generators.running import random_feeds
from tests.maskc import build
from tests.maskc.verification.networks import EVERY_SECOND, compared, normed, pair
from tests.passes.text import random

# Rounding.


@pytest.mark.parametrize("seed", [24, 27])
def test_terms_that_cancel_in_single_elements(seed: int) -> None:
    """How far these move with random signs is seen by many of them alone."""
    weights = np.random.default_rng(seed).standard_normal((9, 42)).astype(np.float32)
    head, factor = "(float[1,9] x) => (float[1,42] y)", np.float32(0.3)
    source = build.model(head, "y = com.microsoft.FusedMatMul<alpha=0.3>(x, w)", w=weights)
    assert api.verify(source, build.model(head, "y = MatMul(x, w)", w=weights * factor)).passed
    assert not api.verify(source, build.model(head, "y = MatMul(x, w)", w=weights * factor * np.float32(1.0001))).passed


def test_what_is_left_of_one_less_a_tanh_of_a_cube() -> None:
    """A power of whole exponent is measured by it: with another it is no number where what is raised is below 0."""
    signature, width = "(float[n,9,64] x) => (float[n,9,64] y)", 64
    body = """
        p = Pow(x, three)
        q = Mul(p, cubic)
        s = Add(x, q)
        u = Mul(s, root)
        t = Tanh(u)
        v = Add(t, one)
        h = Mul(x, half)
        y = Mul(h, v)
    """
    numbers = {"three": 3, "cubic": 0.044715, "root": 0.79788456, "one": 1, "half": 0.5}
    source = build.model(signature, body, 20, **{name: np.float32(number) for name, number in numbers.items()})
    compiled = build.model(signature, 'y = Gelu<approximate="tanh">(x)', 20)
    x = np.full((2, 9, width), -3.0, np.float32) + random(2, 9, width) / 4
    assert api.verify(source, compiled, inputs={"x": x}).passed


def test_an_output_of_a_node_that_is_run_is_not_read_beside_it() -> None:
    """As the sum that is written beside its norm, which is of the operands of both."""
    signature = "(float[n,8] x, float[n,8] r) => (float[n,8] y, float[n,8] s)"
    weights = {"g": random(8), "two": np.array(2.0)}
    source = build.model(
        signature, "m, , , s = com.microsoft.SkipSimplifiedLayerNormalization(x, r, g) y = Relu(m)", **weights
    )
    body = (
        "s = Add(x, r) q = Pow(s, two) v = ReduceMean<axes=[1]>(q) d = Sqrt(v) m = Div(s, d) k = Mul(m, g) y = Relu(k)"
    )
    compiled = build.model(signature, body, **weights)
    checker = Checker(graph_of(source), graph_of(compiled), {name: Boundary(name) for name in "xrsy"}, {}, {})
    assert checker.region("y").compiled_reads == checker.region("s").compiled_reads == {"x", "r"}


def test_nans_must_be_where_they_were() -> None:
    model = build.model("(float[n,8] x) => (float[n,8] y)", "d = Sub(x, shift) y = Log(d)", shift=np.zeros(8))
    assert api.verify(model, model).passed
    assert not api.verify(model, build.changed(model, "shift", lambda s: s + 1)).passed


@pytest.mark.filterwarnings("error")
def test_nans_beside_the_largest_floats() -> None:
    """A scale of theirs, 16 times as large, is infinite in single precision."""
    weights = {"a": np.array(0.001), "b": np.array(-0.001), "c": np.array(2.9e38)}
    signature = "(float[200,8] x) => (float[200,8] y)"
    model = build.model(signature, "p = Pow(x, a) y = Mul(p, c)", **weights)
    assert api.verify(model, build.model(signature, "q = Pow(x, b) y = Div(c, q)", **weights)).passed


@pytest.mark.parametrize("first", ["s = Sqrt(h)", "r = Div(h, h) l = Log(h) s = Mul(r, l)"])
def test_nans_that_the_model_asks_for_must_be_there(first: str) -> None:
    """As of attention that is masked whole: what replaces them is another number otherwise."""
    rest = "n = IsNaN(s) v = Where(n, one, s) y = MatMul(v, w)"
    weights = {"w": (8, 8), "one": np.array(1.0)}
    source = build.model("(float[n,8] x) => (float[n,8] y)", f"h = MatMul(x, w) {first} {rest}", **weights)
    other = build.model("(float[n,8] x) => (float[n,8] y)", f"g = MatMul(x, w) h = Abs(g) {first} {rest}", **weights)
    assert compared(source, source).complete and not compared(source, other).complete
    assert not api.verify(source, other).passed


def test_an_operator_that_means_something_else_in_another_opset() -> None:
    body = "h = MatMul(x, w) s = Softmax(h) t = Mul(s, x) y = Add(t, x)"
    one, two = (build.model("(float[n,4,8] x) => (float[n,4,8] y)", body, opset, w=(8, 8)) for opset in (12, 13))
    assert compared(one, one).complete and not compared(one, two).complete


def test_a_side_that_is_never_chosen_by_what_is_computed() -> None:
    body = "h = MatMul(x, w) c = Greater(h, far) a = Mul(h, tenth) y = Where(c, a, h)"
    weights = {"w": (8, 8), "far": np.array(200.0), "tenth": np.array(0.1)}
    source = build.model("(float[n,8] x) => (float[n,8] y)", body, **weights)
    assert compared(source, source).complete
    assert not compared(source, build.changed(source, "tenth", lambda x: 2 * x)).complete


def test_a_constant_that_the_compiler_computed_may_be_rounded_once() -> None:
    signature, after = "(float[n,5] x) => (float[n,1] y)", "s = Mul(m, small) y = Add(s, one)"
    weights = {"small": np.array(1e-12), "one": np.array(1.0)}
    reference = build.model(signature, f"m = ReduceMean<axes=[1]>(x) {after}", **weights)
    weights |= {"fifth": np.array(0.2), "axes": np.array([1])}
    compiled = build.model(signature, f"parts = Mul(x, fifth) m = ReduceSum(parts, axes) {after}", **weights)
    assert api.verify(reference, compiled).passed
    assert api.verify(reference, build.changed(compiled, "fifth", lambda x: x * 1.0001)).verdict == "failed"


def test_biases_that_the_runtime_would_quantise() -> None:
    """Where data are quantised ONNX Runtime stores a bias in float as int32, in steps, and leaves an Add alone."""
    body = """
        q = QuantizeLinear(x, step, zero)
        f = DequantizeLinear(q, step, zero)
        w = DequantizeLinear(wq, small)
        {}
    """
    signature = "(float[n,3,8,8] x) => (float[n,4,8,8] y)"
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"wq": rng.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8), "b": rng.normal(size=4)}
    weights |= {"step": np.array(0.05), "small": np.array(0.01), "zero": np.array(0, np.int8)}
    compiled = build.model(signature, body.format("y = Conv(f, w, b)"), **weights)
    weights["b"] = weights["b"].reshape(4, 1, 1)
    result = api.verify(build.model(signature, body.format("c = Conv(f, w) y = Add(c, b)"), **weights), compiled)
    assert result.passed and result.outputs[0].max_rel < 1e-6 and not result.outputs[0].explained


def test_channels_that_a_gather_leaves_out_are_those_that_it_names() -> None:
    """Not others that look the same in a run; that they are constant no claim can say between the reshapes."""
    body = "a = MatMul(x, w) h = Reshape(a, heads) t = Reshape(h, flat) {}"
    rng = np.random.default_rng(0)
    weights = {"heads": np.array([0, 3, 3]), "flat": np.array([0, 9]), "w": rng.normal(size=(4, 9))}
    weights["w"] *= [1, 0, 0, 1, 1, 1, 1, 0, 1e-5]
    w2, kept, signature = rng.normal(size=(9, 5)), np.array([0, 3, 4, 5, 6, 8]), "(float[n,4] x) => (float[n,5] y)"
    source = build.model(signature, body.format("y = MatMul(t, w2)"), **weights, w2=w2)
    body = body.format("u = Gather<axis=1>(t, kept) y = MatMul(u, w2)")
    compiled = build.model(signature, body, **weights, kept=kept, w2=w2[kept])
    assert api.verify(source, compiled).verdict == "verified"
    assert not api.verify(source, build.changed(compiled, "w2", lambda w: w * np.float32(1.001))).passed


def test_tensors_that_keep_their_names_and_hold_something_else() -> None:
    """Channels of keys that meet no query, in tensors of both; no claim can say so between the reshape and there."""
    body = """
        p = MatMul(x, w) r = Reshape(p, parts) t = Transpose<perm=[1,0,2]>(r)
        q = Gather<axis=0>(t, first) k = Gather<axis=0>(t, second) u = Transpose<perm=[1,0]>(k) y = MatMul(q, u)
    """
    weights: dict[str, Any] = {"first": np.array(0), "second": np.array(1), "parts": np.array([0, 2, 3])}
    weights["w"] = np.random.default_rng(0).normal(size=(4, 6)) * [1, 1, 0, 1, 1, 1]
    source = build.model("(float[n,4] x) => (float[n,n] y)", body, **weights)
    for column, verdict in ((5, "verified"), (4, "failed")):
        compiled = build.changed(source, "w", lambda w, c=column: np.where(np.arange(6) == c, w[:, ::-1], w))
        assert api.verify(source, compiled).verdict == verdict


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1)])
def test_channels_are_claimed_though_there_is_nothing_at_some_size(sizes: tuple[int, int]) -> None:
    """The rows before the last, turned behind it."""
    body = "a = MatMul(x, w) m = Mul(a, mask) l = Slice(m, last, far) b = Slice(m, nil, last) t = Concat<axis=0>(l, b)"
    weights = {"w": (8, 16), "v": (16, 4), "mask": EVERY_SECOND, "nil": np.array([0]), "last": np.array([-1])}
    weights["far"] = np.array([2**31 - 1])
    source = build.model("(float[n,8] x) => (float[n,4] y)", f"{body} y = MatMul(t, v)", **weights)
    feeds = [random_feeds(source, seed, {"n": n}) for seed, n in enumerate(sizes)]
    proof = compare_regions(source, shrink(source).model, feeds, None, 0).proof
    assert proof.complete and {"l", "b", "t"} <= proof.checker.claims.keys()


def test_a_mean_of_a_number_is_claimed_at_any_size() -> None:
    """Sums of more places are rounded otherwise, by more than a few units."""
    body = "c = Conv(x, k) m = Mul(c, keep) s = Add(m, b) g = GlobalAveragePool(s) y = Conv(g, v)"
    weights = {"k": (8, 3, 1, 1), "v": (4, 8, 1, 1), "keep": np.tile([1.0, 0.0], 4).reshape(8, 1, 1)}
    weights["b"] = np.linspace(0.1, 0.9, 8).reshape(8, 1, 1)
    source = build.model("(float[n,3,h,w] x) => (float[n,4,1,1] y)", body, **weights)
    feeds = [random_feeds(source, seed, {"n": 1, "h": 3, "w": w}) for seed, w in enumerate((3, 500))]
    found = shrink(source)
    proof = compare_regions(source, found.model, feeds, found.origins, 0).proof
    assert proof.complete and proof.checker.claims["g"][1].slices.tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize(
    "pooled", ["p = GlobalAveragePool(r) f = Flatten(p)", "f = ReduceMean<axes=[2,3], keepdims=0>(r)"]
)
def test_a_mean_of_many_equal_numbers_is_theirs_but_for_rounding(pooled: str) -> None:
    """ONNX Runtime sums removed channels as any others, and is off by hundreds of roundings; the compiler is not."""
    body = f"c = Conv(x, w) m = Mul(c, mask) b = Add(m, shift) r = Relu(b) {pooled} q = MatMul(f, v) y = Add(q, bias)"
    weights: dict[str, Any] = {"w": (8, 3, 1, 1), "v": (8, 5), "bias": (5,)}
    weights |= {"mask": EVERY_SECOND[:8].reshape(8, 1, 1), "shift": np.linspace(1.1, 3.3, 8).reshape(8, 1, 1)}
    source = build.model("(float[n,3,224,224] x) => (float[n,5] y)", body, **weights)
    compiled = api.compile(source, align="none").model
    bias = next(t.name for t in compiled.graph.initializer if tuple(t.dims) == (5,))
    assert not api.verify(source, build.changed(compiled, bias, lambda b: b * 1.001)).passed


def test_a_difference_that_a_region_hides_at_the_sizes_of_its_constants() -> None:
    """Large images are run in part where each place is computed alike; a constant of all places does not fit there."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 3, 1, 1)), "map": rng.normal(size=(1, 8, 100, 100))}
    signature, body = "(float[1,3,100,100] x) => (float[1,8,100,100] y)", "c = Conv(x, w) d = Add(c, map)"
    source = build.model(signature, f"{body} y = Relu(d)", **weights)
    twice = {name: 2 * weight for name, weight in weights.items()} | {"half": np.float32(0.5)}
    assert api.verify(source, build.model(signature, f"{body} r = Relu(d) y = Mul(r, half)", **twice)).passed


def test_what_is_claimed_of_the_sizes_of_a_run_is_checked_at_these() -> None:
    """Places behind the end of each example, of which each has another one: a certificate says nothing of others."""
    body = """
        sh = Shape(x) t = Gather(sh, one) r = Range(zero, t, one) ends = Unsqueeze(n, last) l = Less(r, ends)
        m = Where(l, full, none) a = MatMul(x, w) k = Mul(a, mask) b = MatMul(k, v) s = Squeeze(b, last) e = Mul(s, m)
        y = Mul(e, c)
    """
    numbers = {"one": np.array(1), "zero": np.array(0), "last": np.array([-1]), "c": np.float32(0.7)}
    numbers |= {"full": np.float32(1), "none": np.float32(0)}
    source = build.model(
        "(float[b,t,8] x, int64[b] n) => (float[b,t] y)", body, w=(8, 16), v=(16, 1), mask=EVERY_SECOND, **numbers
    )
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(b, 9, 8)).astype(np.float32), "n": np.arange(b) % 3} for b in (1, 2, 1)]
    proof = compare_regions(source, shrink(source).model, feeds, None, 0).proof
    claim = proof.checker.claims["y"][1]
    assert proof.complete and len(claim.runs) == 1  # of the places behind all ends
    proof.checker.claims["y"] = {1: replace(claim, runs=[*claim.runs] * len(feeds))}
    assert proof.checker.sizes(proof.regions["y"]) == AS_SEEN


def test_masked_channels_behind_a_norm_are_multiples_of_one_that_is_stored() -> None:
    """So that the norm, with zeros behind what is there, and the products are compared each on its own."""
    source = normed()
    report = api.compile(source).report
    assert report.verified and report.after.flops < 0.8 * report.before.flops
    regions = report.verification.regions
    assert regions is not None and regions.largest <= 3 and not regions.unchecked


@pytest.mark.slow
def test_a_fault_in_any_weight_before_or_behind_a_norm_of_masked_channels() -> None:
    """Of the channel that stands for those that were removed, too, whose weights are zero."""
    source = normed()
    made, feeds = shrink(source), [random_feeds(source, seed, {"n": 2, "t": 8}) for seed in range(2)]
    right = compare_regions(source, made.model, feeds, made.origins, 0).proof
    claims = [claim for axes in right.checker.claims.values() for claim in axes.values()]
    assert right.complete and all(len(claim.runs) == 1 for claim in claims)  # of any size
    assert any(claim.factors.any() for claim in claims)
    weights = [t for t in made.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims)]
    read = len(made.origins["b"].slices[2])  # of scale and bias; what they make of zeros behind that is cut away
    for tensor in weights:
        size = read if tensor.name.startswith("b_vector") else math.prod(tensor.dims)
        for place in range(0, size, max(1, size - 1)):

            def off(values: Array, place: int = place) -> Array:
                values.flat[place] += np.float32(0.01) * np.abs(values).max()
                return values

            wrong = build.changed(made.model, tensor.name, off)
            failure = first_failure(compare_regions(source, wrong, feeds, made.origins, 0).proof)
            assert failure is not None and failure.ran, (tensor.name, place)


def test_a_sine_of_large_numbers_is_off_by_as_much_as_they_are() -> None:
    """A windowed filter, computed from constants, of which the compiler moves a factor to another place."""
    body = """
        a = Div(row, wide) b = Div(column, high) t = Add(a, b) f = Mul(t, rate) c = Clip(f, low, most) p = Mul(c, pi)
        s = Sin(p) q = Div(s, p) e = Equal(p, zero) j = Where(e, one, q) v = Div(p, twelve) o = Cos(v) w = Mul(o, o)
        k = Mul(j, w) y = MatMul(x, k)
    """
    numbers = {"wide": 441, "high": 160, "rate": 158.4, "low": -6, "most": 6, "pi": np.pi}
    numbers |= {"zero": 0, "one": 1, "twelve": 12}
    weights: dict[str, Any] = {name: np.float32(value) for name, value in numbers.items()}
    weights |= {"row": np.arange(-17, 458, dtype="f"), "column": -np.arange(160, dtype="f")[:, None]}
    result = api.compile(build.model("(float[n,160] x) => (float[n,475] y)", body, **weights))
    assert result.report.verified and "Sin" in {node.op_type for node in result.model.graph.node}


def test_a_vector_that_another_operator_makes() -> None:
    """Of one example, whose first axis is taken away."""
    body = "a = MatMul(x, w) y = Reshape(a, s)"
    source = build.model("(float[1,n,8] x) => (float[n] y)", body, w=(8, 1), s=np.array([-1]))
    compiled = api.compile(source)
    assert compiled.model.graph.node[-1].op_type == "Squeeze" and compiled.report.verified


def test_sizes_of_which_others_do_not_run() -> None:
    """What is repeated along the batch in one model, and by the sum in the other."""
    body = "{} sizes = Concat<axis=0>(rows, three) e = Expand(k, sizes) y = Add(x, e)"
    signature, weights = "(float[n,3] x) => (float[n,3] y)", {"three": np.array([3]), "k": (1, 3)}
    source = build.model(signature, body.format("rows = Shape<end=1>(x)"), **weights)
    compiled = build.model(signature, body.format(""), rows=np.array([1]), **weights)
    assert api.verify(source, compiled).verdict == "verified"


@pytest.mark.parametrize("data", [np.uint8, np.int8])
@pytest.mark.parametrize("stored", [np.uint8, np.int8])
def test_products_of_8_bits_are_exact(data: type, stored: type, tmp_path: Path) -> None:
    """On processors without VNNI as well, where sums of two products are clipped to 16 bits."""
    rng = np.random.default_rng(0)
    least, low = np.iinfo(data).min, np.iinfo(stored).min
    x, w = rng.integers(least, least + 256, (5, 32)), rng.integers(low, low + 256, (32, 8))
    kinds = {np.uint8: "uint8", np.int8: "int8"}
    signature, body = f"({kinds[data]}[5,32] x) => (int32[5,8] y)", "y = MatMulInteger(x, w, a, b)"
    zeros = {"a": np.array(least + 120, data), "b": np.array(low + 130, stored)}
    model = build.model(signature, body, w=w.astype(stored), **zeros)
    expected = (x - (least + 120)) @ (w - (low + 130))
    feed = {"x": x.astype(data)}
    assert np.array_equal(session(model, tmp_path, packs=True).run(None, feed)[0], expected)
    assert np.array_equal(load_repeatable(model, optimized=False, exact=True).run(feed)["y"], expected)


_PRODUCT = "MatMulInteger(x, w, u, s)"
_BRANCH = "{0}_branch = {0} () => (int32[5,8] {0}_y) {{ {0}_y = {1} }}"
_BOTH_SIGNS = {
    "constants that two read": (f"a = {_PRODUCT} b = MatMulInteger(x, v, u, s) y = Sub(a, b)", 17),
    "a newer version": ("q = QLinearMatMul(x, one, u, w, one, s, large, u) y = Cast<to=6>(q)", 21),
    "branches": (f"y = If<{', '.join(_BRANCH.format(each, _PRODUCT) for each in ('then', 'else'))}>(yes)", 17),
    "computed": ("a = Identity(w) b = Identity(a) y = MatMulInteger(x, b, u, s)", 17),
}


@pytest.mark.parametrize("case", _BOTH_SIGNS)
def test_products_of_both_signs_are_exact(case: str, tmp_path: Path) -> None:
    """As they are of weights that are unsigned, whatever ONNX Runtime's own optimizer makes of them."""
    rng, (body, opset) = np.random.default_rng(0), _BOTH_SIGNS[case]
    data, weights = rng.integers(0, 256, (5, 32)), rng.integers(-128, 128, (2, 32, 8))
    given = {"u": np.array(120, np.uint8), "one": np.array(1.0), "large": np.array(2000.0), "yes": np.array(True)}
    made = []
    for kind, zero in ((np.int8, 0), (np.uint8, 128)):
        w, v = (weights + zero).astype(kind)
        model = build.model("(uint8[5,32] x) => (int32[5,8] y)", body, opset, **given, w=w, v=v, s=np.array(zero, kind))
        made.append(session(model, tmp_path, packs=True).run(None, {"x": data.astype(np.uint8)})[0])
    assert np.array_equal(*made)


def test_means_between_steps_are_rounded_by_one_kernel() -> None:
    """Half of a step is rounded by chance where a mean is not computed as ONNX Runtime computes it between steps."""
    pool = "com.microsoft.QLinearAveragePool<kernel_shape=[2,2], strides=[2,2]>(m, s, u, s, u)"
    mask = "com.microsoft.QLinearMul(a, s, u, k, one, none, s, u)"
    body = f"a = QLinearConv(x, s, u, w, s, z, s, u) m = {mask} p = {pool} y = QLinearConv(p, s, u, v, s, z, s, u)"
    rng = np.random.default_rng(0)
    given = {"s": np.array(0.05), "u": np.array(120, np.uint8), "z": np.array(0, np.int8), "one": np.array(1.0)}
    given |= {"none": np.array(0, np.uint8), "k": np.tile(np.uint8([1, 0]), 8).reshape(16, 1, 1)}
    given |= {
        name: rng.integers(-9, 9, shape).astype(np.int8) for name, shape in (("w", (16, 3, 1, 1)), ("v", (4, 16, 1, 1)))
    }
    compiled = api.compile(build.model("(uint8[n,3,8,8] x) => (uint8[n,4,4,4] y)", body, **given), align="none")
    assert compiled.report.channels_removed == 8 and compiled.report.verified


def test_convolutions_of_signed_data_by_unsigned_weights_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-128, 128, (2, 32, 1)).astype(np.int8), rng.integers(0, 256, (8, 32, 1)).astype(np.uint8)
    model = build.model("(int8[2,32,1] x) => (int32[2,8,1] y)", "y = ConvInteger(x, w)", w=w)
    expected = np.einsum("ncp,mcp->nm", x.astype(int), w.astype(int))[..., None]
    assert np.array_equal(session(model, tmp_path, packs=True).run(None, {"x": x})[0], expected)


def test_recurrent_layers_of_signed_weights_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    call = 'com.microsoft.DynamicQuantizeLSTM<hidden_size=8>(x, w, r, "", "", "", "", "", step, zero, step, zero)'
    numbers, made = [rng.integers(-128, 128, (1, rows, 32)) for rows in (32, 8)], []
    for kind, zero in ((np.int8, 0), (np.uint8, 128)):
        w, r = ((each + zero).astype(kind) for each in numbers)
        given = {"w": w, "r": r, "step": np.array([0.01]), "zero": np.array([zero], kind)}
        model = build.model("(float[3,1,32] x) => (float[3,1,1,8] y)", f"y = {call}", **given)
        feed = {"x": np.random.default_rng(1).normal(size=(3, 1, 32)).astype(np.float32)}
        made.append(session(model, tmp_path, packs=True).run(None, feed)[0])
    assert np.array_equal(*made)


def test_products_of_signed_data_and_weights() -> None:
    """ONNX Runtime has no kernel for what its own optimizer against saturation makes of them."""
    body = "q = QuantizeLinear(x, s, z) p = QLinearMatMul(q, s, z, w, s, z, s, z) y = DequantizeLinear(p, s, z)"
    weights = {"s": np.array(0.1), "z": np.array(0, np.int8), "w": np.ones((8, 4), np.int8)}
    assert api.compile(build.model("(float[n,8] x) => (float[n,4] y)", body, **weights)).report.verified


# Claims.


def test_a_claim_that_does_not_follow_is_refused() -> None:
    """Channels that are 0 on all inputs at hand, and not by a mask: without them the model is another."""
    source = build.mlp(mask=np.ones(16))
    wrong = shrink(build.mlp(mask=EVERY_SECOND)).model
    blind = [{"x": np.zeros((rows, 8), np.float32)} for rows in (2, 3)]
    proof = prove(Graph(source), Graph(wrong), blind)
    assert not proof.complete and proof.first() is not None
    right = prove(Graph(build.mlp(mask=EVERY_SECOND)), Graph(wrong), blind)
    assert right.complete, right.first()


def test_channels_that_are_equal_by_chance_are_not_claimed() -> None:
    """Of an input that holds ones on all data nothing follows."""
    body = "a = MatMul(x, w) m = Mul(a, gate) y = MatMul(m, v)"
    source = build.model("(float[n,8] x, float[16] gate) => (float[n,4] y)", body, w=(8, 16), v=(16, 4))
    body = "y = MatMul(a, v)"
    wrong = copied(source)
    del wrong.graph.node[1]
    wrong.graph.node[1].input[0] = "a"
    rng = np.random.default_rng(0)
    ones = [{"x": rng.normal(size=(rows, 8)).astype("f"), "gate": np.ones(16, np.float32)} for rows in (2, 3)]
    assert not prove(Graph(source), Graph(wrong), ones).complete
    assert prove(Graph(source), Graph(source), ones).complete


@pytest.mark.parametrize("drop", [lambda m: 1 - m, lambda m: m * 0, lambda m: m * 0 + 1, lambda m: np.roll(m, 2)])
def test_masks_that_are_others_are_refused(drop: Callable[[Any], Any]) -> None:
    source, compiled = pair("layers")
    for model, other in (
        (build.changed(source, "mask", drop), compiled),
        (source, shrink(build.changed(source, "mask", drop)).model),
    ):
        assert compared(model, other).complete is bool((drop(EVERY_SECOND) == EVERY_SECOND).all())


# What cannot be compared.


def test_random_operators_are_compared_as_nodes() -> None:
    body = "r = RandomNormalLike<seed=1.0>(x) a = Add(x, r) y = MatMul(a, w)"
    model = build.model("(float[n,8] x) => (float[n,4] y)", body, w=(8, 4))
    proof = compared(model, model)
    assert proof.complete, proof.first()
    other = copied(model)
    other.graph.node[0].attribute.append(onnx.helper.make_attribute("scale", 2.0))
    assert not compared(model, other).complete


def test_sizes_of_which_the_runtime_knows_some() -> None:
    """ONNX Runtime takes a Concat of sizes for empty where one comes from outside, as in a part of a model."""
    body = """
        s = Shape(x) h = Gather(s, two) w = Gather(s, three) a = Unsqueeze(h, none)
        b = Unsqueeze(w, none) to = Concat<axis=0>(first, a, b) r = Resize<mode="linear">(table, , , to)
        c = Conv(x, weight) d = Add(c, r) e = Mul(d, mask) y = Conv(e, last)
    """
    sizes = {"two": np.array(2), "three": np.array(3), "none": np.array([0]), "first": np.array([1, 4])}
    weights = {"table": random(1, 4, 3, 3), "weight": random(4, 2, 1, 1), "last": random(3, 4, 1, 1)}
    mask = np.array([1, 0, 1, 0], np.float32).reshape(1, 4, 1, 1)
    model = build.model("(float[n,2,h,w] x) => (float[n,3,h,w] y)", body, mask=mask, **sizes, **weights)
    assert api.compile(model).report.verified


def test_what_held_by_chance_is_not_claimed_in_a_certificate() -> None:
    """A unit that was dead in all values of a seed, and that no region needs to be."""
    source = build.model("(float[n,8] x) => (float[n,8] y)", "h = Relu(x) y = MatMul(h, w)", w=random(8, 8))
    few = [{"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)}]
    proof = prove(Graph(source), Graph(source), few)
    zero = np.zeros(1)
    proof.checker.claims["h"] = {1: Claim(np.array([3]), [np.zeros((1, 1), np.float32)], np.array([3]), zero)}
    held = confirmed(proof)
    assert held.complete and not held.checker.claims
