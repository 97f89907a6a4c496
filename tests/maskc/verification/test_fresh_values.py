"""Small regions: random values enough, and wide enough, to show what differs; and what only rounds is not refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import maskc as api
import passes
from maskc.verification.compare_regions import compare_regions
from maskc.verification.recheck import Array, Seen
from maskc.verification.regions.hidden_differences import first_failure
from passes.rewriting.origins import Origin, Origins
from tests.generators.architectures import build as build_architecture
from tests.generators.architectures import mobilenet3
from tests.generators.net import Masks
from tests.generators.networks import network
from tests.generators.running import random_feeds
from tests.maskc import build
from tests.maskc.verification.networks import proof_of


def test_few_elements_of_which_none_need_be_below_0() -> None:
    right, other = (build.model("(float[n,2] x) => (float[n,2] y)", f"y = {op}(x)") for op in ("Relu", "Identity"))
    for seed in range(15):
        assert proof_of(right, right, seed).complete
        assert proof_of(right, other, seed).first() is not None, seed


@pytest.mark.parametrize(("before", "is_by_chance"), [("Add(a, far)", True), ("Relu(a)", False)])
def test_a_sign_that_all_runs_have(before: str, is_by_chance: bool) -> None:
    """By chance, so that a Relu of it is no identity, or because of what is before, which then is in the region."""
    body = f"a = MatMul(x, w) b = {before} m = Mul(b, mask) c = Relu(m) y = MatMul(c, v)"
    weights = {"w": (8, 16), "v": (16, 4), "far": np.full(16, 100.0), "mask": np.tile([1.0, 0.5], 8)}
    source = build.model("(float[n,8] x) => (float[n,4] y)", body, constants=weights)
    other = build.model("(float[n,8] x) => (float[n,4] y)", body.replace("Relu(m)", "Identity(m)"), constants=weights)
    assert proof_of(source, source, 0).complete
    assert proof_of(source, other, 0).complete is not is_by_chance


def test_the_spread_is_that_of_all_runs() -> None:
    """The first may have one element."""
    runs = [np.array([[0.1]], np.float32), np.array([[3], [-3]], np.float32)]
    assert Seen.of(runs).spread == pytest.approx(np.std([0.1, 3, -3]))


WEIGHTS = np.array([[0.5], [1.0], [-0.7], [0.9]], np.float32)


@pytest.mark.parametrize(
    ("signature", "source", "compiled", "weights"),
    [
        pytest.param("(float[1,t,1,4] x) => (float[1,t,1,1] y)", *["y = MatMul(x, w)"] * 2, WEIGHTS, id="open slices"),
        pytest.param(
            "(float[n,1,4] x) => (float[n,1,8] y)",
            's = Constant<value_floats=[1.0,1.0,2.0]>() r = Resize<mode="linear">(x, , s) y = Mul(r, w)',
            's = Constant<value_floats=[1.0,1.0,2.0]>() m = Mul(x, w) y = Resize<mode="linear">(m, , s)',
            WEIGHTS[:1],
            id="scales that are no data",
        ),
    ],
)
def test_a_thousandth_where_terms_may_cancel(signature: str, source: str, compiled: str, weights: Array) -> None:
    """Whether they do is measured, at other sizes than in the turn before as well."""
    model, right = (build.model(signature, text, w=weights) for text in (source, compiled))
    wrong = build.changed(right, "w", lambda w: w * np.float32(1.001))
    assert proof_of(model, right, 0).complete
    proof = proof_of(model, wrong, 0)
    assert (failure := proof.first()) is not None and failure.ran


def test_an_output_of_which_the_compiler_says_nothing() -> None:
    model = build.model("(float[n,4] x) => (float[n,1] y)", "y = MatMul(x, w)", w=WEIGHTS)
    assert proof_of(model, model, 0, y=None).complete
    failure = proof_of(model, build.changed(model, "w", np.negative), 0, y=None).first()
    assert failure is not None and failure.ran


def half(values: Any) -> Array:
    return np.asarray(values, np.float16)


@pytest.mark.parametrize("rest", [(0.95, 0.95, 0.95, 0.95), (0.995, 0.9, 0.5, 0.2)], ids=["many", "near 0"])
@pytest.mark.parametrize("seed", [0, 10, 12])
def test_operators_that_became_one_constant_of_half_precision(rest: tuple[float, ...], seed: int) -> None:
    """The source is computed in single precision, and rounds to half at none of them."""
    rng = np.random.default_rng(seed)
    near = [half(rng.uniform(0.8, 1.2, 4)) for _ in range(12 if len({*rest}) == 1 else 4)]
    body = "n = Mul(x, nil) a0 = Add(n, near0) "
    body += "".join(f"a{i} = Mul(a{i - 1}, near{i}) " for i in range(1, len(near)))
    weights = {"nil": half(np.zeros(4)), "rest": half(np.prod(np.float32(near), axis=0) * rest)}
    weights |= {f"near{i}": values for i, values in enumerate(near)}
    body += f"y = Sub(a{len(near) - 1}, rest)"
    assert api.compile(build.model("(float16[n,4] x) => (float16[n,4] y)", body, **weights)).report.verified


def test_a_bias_of_half_precision_that_was_a_row_of_weights() -> None:
    body = "s = Shape<end=1>(x) t = Concat<axis=0>(s, one) e = Expand(k, t) c = Concat<axis=1>(x, e) y = Gemm(c, w)"
    weights = {"one": np.array([1]), "k": half([[0.7]]), "w": half(np.random.default_rng(0).normal(size=(5, 3)))}
    assert api.compile(build.model("(float16[n,4] x) => (float16[n,3] y)", body, **weights)).report.verified


def choosing(factor: float, place: str) -> onnx.ModelProto:
    """A network of branches, one of which no run takes: its weights are so many times as large."""
    then = f"{{ a = MatMul(x, w) b = Mul(a, {'k' if place == 'then' else 'one'}) }}"
    otherwise = f"{{ d = MatMul(x, w) e = Mul(d, {'k' if place == 'else' else 'one'}) }}"
    if place == "nested":
        then = "{ b = If(c) <then_branch = g () => (float[?,8] p) { p = Mul(x, one) },"
        then += " else_branch = h () => (float[?,8] q) { q = Mul(x, k) }> }"
    body = f"""
        far = {"GreaterOrEqual" if place == "else" else "Less"}(s, bound)
        c = Greater(s, zero)
        z = If(far) <then_branch = t () => (float[?,8] b) {then}, else_branch = f () => (float[?,8] e) {otherwise}>
        y = Relu(z)
    """
    weights = {"w": np.eye(8) + 0.5, "one": np.ones(8), "k": np.full(8, factor)}
    ends = {"bound": np.array(-1e6), "zero": np.array(0.0)}
    return build.model("(float[n,8] x, float s) => (float[n,8] y)", body, **weights, **ends)


@pytest.mark.parametrize("place", ["then", "else", "nested"])
def test_branches_that_no_run_takes(place: str) -> None:
    assert api.verify(choosing(1.0, place), choosing(1.0, place)).verdict == "verified"
    result = api.verify(choosing(1.0, place), choosing(1.01, place))
    assert result.verdict == "failed" and "'z'" in result.reasons[0]


def test_a_sum_in_each_round_of_a_loop() -> None:
    """It rounds as often as that of a recurrent layer."""
    body = """
        y = Scan<num_scan_inputs = 1, body = round (float[n,64] h, float[n,64] r) => (float[n,64] o) {
            a = Add(h, r) m = MatMul(a, w) o = Tanh(m)
        }>(start, x)
    """
    model = build.model("(float[32,n,64] x, float[n,64] start) => (float[n,64] y)", body, w=(64, 64))
    checker = proof_of(model, model, 0).checker
    region = checker.region("y")
    assert checker.allowed(region) > 32 * 8 * 2.0**-24
    assert region.boundary.reads is None


def test_an_output_that_is_no_number_in_runs_alone() -> None:
    """Regions before it are compared where they make numbers."""
    body = "c = Greater(ends, low) m = Where(c, x, least) s = Slice(m, first, last, last) y = Softmax(s)"
    stored = {
        "ends": np.array([-1e9, 0, 0, 0]),
        "least": np.array(-np.inf),
        "first": np.array([0]),
        "last": np.array([1]),
    }
    model = build.model("(float[n,4] x, float low) => (float[n,?] y)", body, **stored)
    result = api.verify(model, model)
    assert result.verdict == "verified" and "Nothing of output 'y'" in " ".join(result.notes)


def test_values_that_no_run_chooses() -> None:
    right, other = (
        build.model(
            "(float[n,8] x, float s) => (float[n,8] y)",
            f"far = Less(s, bound) a = Abs(x) w = Where(far, {chosen}, x) y = Relu(w)",
            bound=np.array(-1e6),
        )
        for chosen in "ax"
    )
    assert api.verify(right, right).verdict == "verified"
    assert api.verify(right, other).verdict == "failed"


@pytest.mark.parametrize("wrong", [False, True])
def test_a_table_of_one_row_that_became_a_constant(wrong: bool) -> None:
    """No index is read, of which all entries are looked up in the source."""
    table = np.zeros((40, 3))
    table[33] = wrong
    source = build.model("(int64[5] i) => (float[5,3] y)", "y = Gather(table, i)", table=table)
    other = build.model("(int64[5] i) => (float[5,3] y)", "y = Identity(zeros)", zeros=np.zeros((5, 3)))
    feeds = [{"i": np.arange(5) + k} for k in range(3)]
    assert compare_regions(source, other, feeds, Origins(), 0).proof.complete != wrong


def test_a_new_tensor_that_has_the_name_of_a_constant() -> None:
    """A run of an operator on what has another rank may end the process: ONNX Runtime's Einsum does not look."""
    weights = {"w": np.arange(12).reshape(4, 3) - 5.0, "row": np.ones(3)}
    text = 'c = Abs(row) m = Mul(x, mask) h = Einsum<equation="ab,bc->ac">(m, w) y = Add(h, c)'
    source = build.model("(float[n,4] x) => (float[n,3] y)", text, mask=np.array([1.0, 0, 1, 0]), **weights)
    text = 'c = Gather<axis=1>(x, kept) h = Einsum<equation="ab,bc->ac">(c, less) y = Add(h, row)'
    kept = np.array([0, 2])
    other = build.model("(float[n,4] x) => (float[n,3] y)", text, kept=kept, less=weights["w"][kept], **weights)
    proof = proof_of(source, other, 0)
    assert proof.complete and "c" not in proof.checker.boundaries


@pytest.mark.parametrize("seed", range(4))
def test_a_constant_of_which_terms_of_weights_nearly_cancel(seed: int) -> None:
    """A normalisation of a masked channel, whose bias is almost its shifted mean."""
    rng = np.random.default_rng(seed)
    mean, scale, variance = rng.uniform(1, 2, (3, 16))
    near = mean * scale / np.sqrt(variance + 1e-5) * (1 + 1e-4 * rng.standard_normal(16))
    text = "m = Mul(x, none) y = BatchNormalization(m, scale, bias, mean, variance)"
    stored = {"none": np.zeros(16), "scale": scale, "bias": near, "mean": mean, "variance": variance}
    assert api.compile(build.model("(float[n,16] x) => (float[n,16] y)", text, **stored)).report.verified


@pytest.mark.parametrize("seed", range(3))
def test_gates_that_are_nearly_shut(seed: int) -> None:
    """ONNX Runtime's Sigmoid near 0 is off by a rounding of 1/2, and hardly anything is left of what it multiplies."""
    w, r = np.random.default_rng(seed).normal(size=(2, 1, 512, 128)).astype(np.float32) / 11
    signature = "(float[t,1,128] x, float[1,1,128] h, float[1,1,128] c) => (float[1,1,128] hn, float[1,1,128] cn)"
    text = "y, hn, cn = LSTM<hidden_size=128>({}, w, r, , , h, c)"
    source = build.model(signature, f"m = Mul(x, s) {text.format('m')}", w=w, r=r, s=np.full(128, 6.6))
    right = build.model(signature, text.format("x"), w=w * np.float32(6.6), r=r)
    wrong = build.changed(right, "r", lambda r: r * np.float32(1.001))
    assert proof_of(source, right, seed).complete
    assert proof_of(source, wrong, seed).first() is not None


def test_what_a_region_makes_on_the_way_and_others_are_given() -> None:
    """The source has s on its way to y, and the compiled model does not, where another output reads it."""
    signature, first = "(float[4,4] x) => (float[4,4] y, float[4,4] z)", "a = Sin(x) s = Transpose(a)"
    source = build.model(signature, f"{first} u = Transpose(s) y = Abs(u) z = Add(s, s)")
    compiled = build.model(signature, f"{first} y = Abs(a) z = Sum(s, s)")
    proof = proof_of(source, compiled, 0, **{name: Origin(name) for name in "asyz"})
    assert proof.complete and proof.regions["y"].source_reads == {"a"}


@pytest.mark.parametrize("mask", [[1, 0, 0, 0], [1, 0, 1, 0]])
def test_tensors_of_which_a_mask_leaves_nothing(mask: list[int]) -> None:
    """They are computed without a channel that only they need, and are not what the source has under their names."""
    tail = "g = MatMul({0}, v) n = Neg(g) f = Floor(n) c = Concat<axis=1>({0}, f) y = Mul(c, mask)"
    weights = {
        "w": np.array([[0.3, -0.8], [0.2, 0.4]], np.float32),
        "v": np.array([[0.2, 0.1], [0.05, 0.3]], np.float32),
    }
    signature, m = "(float[n,2] x) => (float[n,4] y)", np.array(mask, np.float32)
    source = build.model(signature, "h = MatMul(x, w) " + tail.format("h"), mask=m, **weights)
    first, pads = weights["w"][:, :1], np.array([0, 0, 0, 1])
    body = "k = MatMul(x, w) p = Pad(k, pads) " + tail.format("p")
    compiled = build.model(signature, body, mask=m, pads=pads, w=first, v=weights["v"])
    origins = {"k": Origin("h", {1: np.array([0])}), "p": None, **{name: Origin(name) for name in "gnfcy"}}
    proofs = [proof_of(source, compiled, seed, **origins) for seed in range(4)]
    assert all(proof.complete == (mask[2] == 0) for proof in proofs)


@pytest.mark.parametrize("behind", [False, True])
def test_weights_of_units_that_are_dead_by_chance(behind: bool) -> None:
    """Where maxima come before them they are dead in any run: regions are not taken together until that is so."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 6, 3, 3)).astype(np.float32)
    kernel[3] = -np.abs(kernel[3])
    weights = rng.normal(size=(8, 8)).astype(np.float32)
    if behind:
        weights[:, 5] = -np.abs(weights[:, 5])
    body = """p = MaxPool<kernel_shape=[8,8], strides=[8,8]>(x) c = Conv(p, k) r = Relu(c) g = GlobalMaxPool(r)
        f = Flatten(g) m = MatMul(f, w) y = Relu(m)"""
    model = build.model("(float[n,6,64,64] x) => (float[n,8] y)", body, k=kernel, w=weights)
    one = np.s_[2, 5] if behind else np.s_[3, 2]
    wrong = build.changed(model, "w", lambda w: np.where(np.arange(64).reshape(8, 8) == 8 * one[0] + one[1], -w, w))
    alive = [{"x": rng.normal(-3 * (rows == 2), 1, (rows, 6, 64, 64)).astype(np.float32)} for rows in (1, 2, 3)]
    for seed in range(3):
        assert compare_regions(model, model, alive, Origins(), seed).proof.complete
        assert first_failure(compare_regions(model, wrong, alive, Origins(), seed).proof) is not None


def test_weights_of_units_that_are_dead_by_chance_behind_a_mask() -> None:
    """The source reads channels, too, that a mask behind them leaves nothing of."""
    rng = np.random.default_rng(0)
    kernel, weights = rng.normal(size=(8, 6, 3, 3)).astype(np.float32), rng.normal(size=(8, 8)).astype(np.float32)
    kernel[3] = -np.abs(kernel[3])
    body = """p = MaxPool<kernel_shape=[8,8], strides=[8,8]>(x) c = Conv(p, k) r = Relu(c) g = GlobalMaxPool(r)
        f = Flatten(g) a = Mul(f, mask) m = MatMul(a, w) y = Relu(m)"""
    mask = np.array([1, 0, 1, 1, 0, 1, 1, 0], np.float32)
    model = build.model("(float[n,6,64,64] x) => (float[n,8] y)", body, k=kernel, w=weights, mask=mask)
    shrunk = passes.shrink(model)
    row = [0, 2, 3, 5, 6].index(3)
    wrong = build.changed(shrunk.model, "w", lambda w: np.where(np.arange(5)[:, None] == row, -w, w))
    alive = [{"x": rng.normal(-3 * (rows == 2), 1, (rows, 6, 64, 64)).astype(np.float32)} for rows in (1, 2, 3)]
    assert compare_regions(model, shrunk.model, alive, shrunk.origins, 0).proof.complete
    assert first_failure(compare_regions(model, wrong, alive, shrunk.origins, 0).proof) is not None


@pytest.mark.parametrize("node", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_row_of_a_table_that_no_run_looks_up(dtype: type, node: bool) -> None:
    """What reads it agrees in runs, as these have other rows. The table is an initializer, or a Constant."""
    body = "g = Gather(t, i) y = Transpose<perm=[0,2,1]>(g)"
    kind = {np.float32: "float", np.uint8: "uint8"}[dtype]
    table = np.random.default_rng(0).integers(0, 200, (300, 8)).astype(dtype)
    model = build.model(f"(int64[n,t] i) => ({kind}[n,8,t] y)", body, t=table)
    wrong = build.changed(model, "t", lambda t: np.where(np.arange(300)[:, None] == 270, t + 3, t).astype(dtype))
    few = [{"i": np.arange(3 * rows).reshape(rows, 3)} for rows in (1, 2, 3)]
    if node:
        constant = onnx.helper.make_node("Constant", [], ["t"], value=model.graph.initializer.pop())
        model.graph.node.insert(0, constant)
    assert compare_regions(model, model, few, Origins(), 0).proof.complete
    assert first_failure(compare_regions(model, wrong, few, Origins(), 0).proof) is not None


def test_a_weight_of_a_recurrent_layer_of_many_steps() -> None:
    """Roundings of its steps add up like those of a sum: not each step's to the whole of the steps before."""
    rng = np.random.default_rng(0)
    w, r = (rng.normal(size=(1, 96, n)).astype(np.float32) / 6 for n in (32, 32))
    model = build.model("(float[64,n,32] x) => (float[64,1,n,32] y)", "y = GRU<hidden_size=32>(x, w, r)", w=w, r=r)
    wrong = build.changed(model, "w", lambda w: np.where(np.arange(w.size).reshape(w.shape) == 1568, 0.999 * w, w))
    assert proof_of(model, model, 0).complete
    assert proof_of(model, wrong, 0).first() is not None


def attention(seed: int) -> onnx.ModelProto:
    """Attention of random sizes, of which columns of random projections are zero, with their biases at times."""
    rng = np.random.default_rng(seed)
    width, heads = int(rng.choice([8, 12, 16])), int(rng.choice([1, 2, 4]))
    shapes = {name: (width, 6 if name == "wo" else width) for name in ("wq", "wk", "wv", "wo")}
    shapes |= {"bq": (width,), "bk": (width,), "bv": (width,), "bo": (6,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    for name in rng.choice(["wq", "wk", "wv"], rng.integers(1, 4)):
        columns = rng.permutation(width)[: rng.integers(1, width)]
        weights[name][:, columns] = 0
        if rng.random() < 0.4:
            weights["b" + name[1]][columns] = 0
    between = rng.choice(["v1 = Identity(v0)", "v1 = Relu(v0)", "v1 = Tanh(v0)"])
    body = f"""q9 = MatMul(x, wq) q0 = Add(q9, bq) q1 = Reshape(q0, heads) q = Transpose<perm=[0,2,1,3]>(q1)
        k9 = MatMul(x, wk) k0 = Add(k9, bk) k1 = Reshape(k0, heads) k = Transpose<perm=[0,2,3,1]>(k1)
        v9 = MatMul(x, wv) v0 = Add(v9, bv) {between} v2 = Reshape(v1, heads) v = Transpose<perm=[0,2,1,3]>(v2)
        s = MatMul(q, k) a = Softmax<axis=-1>(s) o = MatMul(a, v) o1 = Transpose<perm=[0,2,1,3]>(o)
        o2 = Reshape(o1, merged) p = MatMul(o2, wo) y = Add(p, bo)"""
    sizes = {"heads": np.array([0, 0, heads, width // heads]), "merged": np.array([0, 0, width])}
    return build.model(f"(float[n,t,{width}] x) => (float[n,t,6] y)", body, **weights, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [13, 78, 128])
def test_constants_through_rows_that_add_up_to_1(seed: int) -> None:
    """Heads keep other channels, so that some stay of which nothing is needed: that shows where rows are Softmax's."""
    model = attention(seed)
    shrunk = passes.shrink(model)
    assert api.verify(model, shrunk.model).passed
    proof = proof_of(model, shrunk.model, seed, shrunk.origins)
    assert proof.complete and all(boundary.reads is None for boundary in proof.checker.boundaries.values())
    wrong = build.changed(shrunk.model, "wo", lambda w: w * np.float32(1.001))
    assert not api.verify(model, wrong).passed


@pytest.mark.parametrize(("opset", "axes"), [(11, (1, 2)), (13, (1,))])
def test_what_a_softmax_makes_adds_up_to_1(opset: int, axes: tuple[int, ...]) -> None:
    body = "s = Softmax<axis=1>(x) y = MatMul(s, w)"
    model = build.model("(float[n,3,4] x) => (float[n,3,2] y)", body, opset=opset, w=(4, 2))
    checker = proof_of(model, model, 0).checker
    for turn in range(-2, 4):
        values = checker.fresh("s", turn)
        assert values.min() >= 0
        np.testing.assert_allclose(values.sum(axes), 1, rtol=1e-5)


def test_sums_in_a_loop_with_weights_that_constants_make() -> None:
    """They are those of nodes in the source, as PyTorch writes them, and are stored in the compiled file."""
    assert api.compile(network(24733).model).report.verified


def test_two_terms_that_cancel_in_half_precision() -> None:
    """Of a window of three weights, into which a divisor is folded: two random movements may be alike for both."""
    assert api.compile(network(20521).model).report.verified


def test_what_is_made_with_the_weights_of_one_unit_may_be_taken_in() -> None:
    """A region of a convolution needs what is before one."""
    assert api.compile(network(55_077).model).report.verified


def weight_of_units_that_are_mostly_dead() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """In one branch by weights that are in its body, and in the other always."""
    rng = np.random.default_rng(0)
    mostly = rng.normal(size=(4, 4)) - np.array([0, 1.2, 0, 0])
    weights = {"w": rng.normal(size=(6, 4)), "u": rng.normal(size=(4, 3)), "zero": np.array(0.0)}
    model = build.model(
        "(float[n,6] x) => (float[n,3] y)",
        f"""a = MatMul(x, w) r = Relu(a) s = ReduceSum<keepdims=0>(x) c = Greater(s, zero)
        i = If(c) <
            then_branch = t () => (float[n,4] o) <float[4,4] v = {{{", ".join(map(str, mostly.ravel()))}}}> {{
                o = MatMul(r, v)
            }},
            else_branch = e () => (float[n,4] p) {{ p = Neg(r) }}
        > q = Relu(i) y = MatMul(q, u)""",
        **weights,
    )
    return model, build.changed(model, "u", lambda u: np.where(np.arange(12).reshape(4, 3) == 4, 1.001 * u, u))


def weight_of_an_average() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Of many elements, whose average is nearly 0, while as many roundings are allowed of it."""
    rng = np.random.default_rng(13)
    body = "g = GlobalAveragePool(x) f = Flatten(g) m = MatMul(f, w) y = Add(m, b)"
    weights = {"w": rng.normal(size=(12, 4)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)}
    model = build.model("(float[n,12,48,48] x) => (float[n,4] y)", body, **weights)
    return model, build.changed(model, "w", lambda w: np.where(np.arange(48).reshape(12, 4) == 19, 1.0001 * w, w))


@pytest.mark.parametrize("pair", [weight_of_units_that_are_mostly_dead, weight_of_an_average])
def test_a_weight_that_is_off_by_little_is_not_hidden_by_a_larger_region(
    pair: Callable[[], tuple[onnx.ModelProto, onnx.ModelProto]],
) -> None:
    source, wrong = pair()
    assert api.verify(source, source).verdict == "verified"
    assert api.verify(source, wrong).verdict == "failed"


def test_units_that_are_dead_where_an_average_is_always_the_same() -> None:
    """As of random values without a mean of their own, behind which nothing of the weight shows."""
    source = build_architecture(mobilenet3, Masks(consistent=False, seed=2979), seed=29).model()
    right = passes.shrink(source).model
    wrong = build.changed(right, "const_55", lambda w: np.where(np.arange(w.size).reshape(w.shape) == 1, 1.01 * w, w))
    assert api.verify(source, right).passed
    assert not api.verify(source, wrong).passed


def test_another_axis_of_a_softmax_whose_region_takes_in_an_approximation() -> None:
    """How well a QuickGelu is approximated explains nothing behind it."""
    net = network(50_023)
    compiled = passes.shrink(net.model).model
    assert api.verify(net.model, compiled).passed
    softmax = next(node for node in compiled.graph.node if node.op_type == "Softmax")
    del softmax.attribute[:]
    softmax.attribute.append(onnx.helper.make_attribute("axis", -2))
    assert not api.verify(net.model, compiled).passed


@pytest.mark.filterwarnings("error")
def test_a_weight_that_is_infinite_is_found_without_a_warning_of_numpy() -> None:
    net = network(50_016)
    compiled = passes.shrink(net.model).model
    wrong = build.changed(compiled, "scale_1", lambda scale: np.where(scale == scale.max(), np.inf, scale))
    assert not api.verify(net.model, wrong).passed


def test_an_epsilon_beside_few_small_variances() -> None:
    """What rounds each element for itself is judged so: beside the largest variance it is no more than rounding."""
    body = "s = Mul(x, x) m = ReduceMean<axes=[-1]>(s) a = Add(m, epsilon) r = Sqrt(a) n = Div(x, r) y = MatMul(n, w)"
    model = build.model("(float[n,32,2] x) => (float[n,32,4] y)", body, epsilon=np.float32(1e-6), w=(2, 4))
    feeds = [random_feeds(model, seed, {"n": 5}) for seed in range(2)]
    for other, name in ((model, None), (build.changed(model, "epsilon", lambda e: 0 * e), "a")):
        failure = first_failure(compare_regions(model, other, feeds, None, 0).proof)
        assert (failure and failure.region.target) == name


def test_a_constant_that_is_masked_in_the_end_may_be_another_behind_a_relu_that_it_closes() -> None:
    """A larger one would open the Relu, and be masked still."""
    source = build.model(
        "(float[n,4] x) => (float[n,4] y)",
        "s = Mul(x, m) a = Add(s, b) r = Relu(a) y = Mul(r, m)",
        m=np.array([0.0, 1, 1, 1]),
        b=np.array([-0.06, 0.1, 0.2, 0.3]),
    )
    compiled = build.changed(source, "b", lambda b: np.where(b < 0, 0, b))
    assert api.verify(source, compiled).verdict == "verified"


def test_an_exponential_less_one_is_off_near_zero_however_small_it_is() -> None:
    """Before a Selu there are channels that are small constants: it has other lanes for the few that are left."""
    assert api.compile(network(501426).model).report.verified


def test_claims_of_several_sizes_hold_in_turns_beyond_runs() -> None:
    """Each is of the run that has the sizes of the turn."""
    assert api.compile(network(600112).model).report.verified


def test_comparisons_of_sizes_are_no_steps() -> None:
    """A constant behind an InstanceNormalization, beside which a border is computed of open sizes."""
    assert api.compile(network(840415).model).report.verified
