"""Normalisation over partly constant channels, and other slices that follow from a few."""

import numpy as np
import onnx
import pytest

from passes.abstract_values import linear_dependence
from passes.abstract_values.scale_shift import limits, rounds
from passes.analysis.dataflow import analyse
from passes.sizes.prepare import prepared
from tests.generators.check import assert_exact
from tests.generators.running import random_feeds
from tests.passes.text import Array, compiled, model, narrowed, operators, random, weight

N = 32
KEPT = np.arange(N) % 3 == 0
LIVE = int(KEPT.sum())
MASK = KEPT.astype(np.float32)

WRITTEN_OUT = {
    "centred, divided": """
        mean = ReduceMean<axes=[-1]>(a)  d = Sub(a, mean)  p = Pow(d, two)  v = ReduceMean<axes=[-1]>(p)
        e = Add(v, eps)  s = Sqrt(e)  n = Div(d, s)  g = Mul(n, scale)  y = Add(g, bias)""",
    "multiplied by the scaled inverse": """
        mean = ReduceMean<axes=[-1]>(a)  d = Sub(a, mean)  p = Mul(d, d)  v = ReduceMean<axes=[-1]>(p)
        e = Add(v, eps)  s = Sqrt(e)  r = Reciprocal(s)  inv = Mul(r, scale)  xi = Mul(a, inv)
        mi = Mul(mean, inv)  b = Sub(bias, mi)  y = Add(xi, b)""",
    "mean of squares": """
        mean = ReduceMean<axes=[-1]>(a)  q = Mul(a, a)  mq = ReduceMean<axes=[-1]>(q)  qm = Mul(mean, mean)
        v0 = Sub(mq, qm)  v = Abs(v0)  e = Add(v, eps)  s = Sqrt(e)  r = Reciprocal(s)  inv = Mul(r, scale)
        d = Sub(a, mean)  n = Mul(d, inv)  y = Add(n, bias)""",
    "root mean square": """
        q = Mul(a, a)  v = ReduceMean<axes=[-1]>(q)  e = Add(v, eps)  s = Sqrt(e)  n = Div(a, s)  g = Mul(n, scale)
        y = Add(g, bias)""",
    "sums": """
        total = ReduceSum(a, last)  mean = Div(total, count)  d = Sub(a, mean)  p = Mul(d, d)
        tv = ReduceSum(p, last)  v = Div(tv, count)  e = Add(v, eps)  s = Sqrt(e)  n = Div(d, s)
        g = Mul(n, scale)  y = Add(g, bias)""",
    "operator": "y = LayerNormalization<axis=-1, epsilon=0.00001>(a, scale, bias)",
    "operator without bias": "y = LayerNormalization<axis=2>(a, scale)",
    "root mean square operator": "y = RMSNormalization<axis=-1, epsilon=0.00001>(a, scale)",
}

SHIFTS = {"zeros": np.zeros(N), "one constant": np.full(N, 0.7), "constants": random(N, seed=9)}


def network(form: str, shift: Array, after: str = "z = MatMul(y, w)  o = Relu(z)", **more: Array) -> onnx.ModelProto:
    """Masked and shifted channels, normalised over, and a product behind."""
    body = WRITTEN_OUT[form]
    opset = 23 if "RMS" in body else 17
    given = {"two": np.float32(2), "last": np.asarray([-1]), "count": np.float32(N), "eps": np.float32(1e-5)}
    given |= {"scale": random(N, seed=1), "bias": random(N, seed=2), "w": random(N, 24, seed=3)}
    given |= {"k": MASK, "shift": shift, "w0": random(8, N, seed=4)} | more
    text = f"x0 = MatMul(x, w0)  m = Mul(x0, k)  a = Add(m, shift)  {body}  {after}"
    return model("(float[B,T,8] x) => (float[B,T,24] o)", text, opset, constants=given)


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=list(SHIFTS))
@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_a_product_behind_a_normalisation_reads_the_live_channels_and_two_more_at_most(form: str, shift: Array) -> None:
    source = network(form, shift)
    result = compiled(source)
    rows = weight(result, "MatMul", which=1).shape[0]
    if form in ("mean of squares", "multiplied by the scaled inverse") and shift.std() > 0:
        assert rows <= N  # exact, and as wide as before: squares of unlike constants are unlike
    else:
        assert LIVE <= rows <= LIVE + 2
        if "operator" in form or not shift.std():  # written out, unlike constants have unlike squares
            assert weight(result, "MatMul", which=0).shape[1] <= LIVE + 2
    assert_exact(source, cases=[random_feeds(source, 5, {"B": 2, "T": 3})])


@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_who_needs_the_channels_themselves_gets_them(form: str) -> None:
    after = "z = MatMul(y, w)  u = Erf(y)  h = MatMul(u, w2)  o = Add(z, h)"
    compiled(network(form, SHIFTS["zeros"], after, w2=random(N, 24, seed=6)))


@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_channels_masked_behind_the_normalisation_still_count_in_it(form: str) -> None:
    others = (np.arange(N) % 2 == 0).astype(np.float32)
    result = compiled(network(form, SHIFTS["zeros"], "j = Mul(y, k2)  o = MatMul(j, w)", k2=others))
    assert weight(result, "MatMul", which=1).shape[0] <= int((others > 0).sum())


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=list(SHIFTS))
@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_channels_whose_scale_is_zero_are_their_bias_behind_the_normalisation(form: str, shift: Array) -> None:
    scale, bias = random(N, seed=1) * KEPT, random(N, seed=2) * KEPT
    source = network(form, shift, scale=scale, bias=bias)
    result = compiled(source)
    assert weight(result, "MatMul", which=1).shape[0] == LIVE
    if "operator" in form or not shift.std():
        assert weight(result, "MatMul", which=0).shape[1] <= LIVE + 1  # one that stands for all
    assert_exact(source, cases=[random_feeds(source, 5, {"B": 2, "T": 3})])


@pytest.mark.parametrize("form", ["operator", "operator without bias", "root mean square operator"])
def test_a_scale_of_zero_masks_channels_that_are_live_in_front_of_the_normalisation(form: str) -> None:
    source = model(
        f"(float[B,T,8] x) => (float[B,T,24] o) <float[8,{N}] w0, float[{N},24] w>",
        f"a = MatMul(x, w0)  {WRITTEN_OUT[form]}  o = MatMul(y, w)",
        23,
        constants={"scale": random(N, seed=1) * KEPT, "bias": random(N, seed=2)},
    )
    result = narrowed(source)
    assert (weight(result, "MatMul", which=0).shape[1], weight(result, "MatMul", which=1).shape[0]) == (N, LIVE)


def test_half_precision_takes_its_statistics_in_single_precision() -> None:
    shapes = {"w0": (8, N), "scale": (N,), "bias": (N,), "w": (N, 4)}
    source = model(
        "(float16[B,8] x) => (float16[B,4] o)",
        "x0 = MatMul(x, w0)  m = Mul(x0, k)  y = LayerNormalization(m, scale, bias)  o = MatMul(y, w)",
        k=KEPT.astype(np.float16),
        **{name: random(*shape).astype(np.float16) for name, shape in shapes.items()},
    )
    assert weight(compiled(source), "MatMul", which=1).shape[0] == LIVE + 1


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"])
@pytest.mark.parametrize("shift", SHIFTS.values(), ids=list(SHIFTS))
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_over_channels_do_without_constants(op: str, shift: Array, keepdims: int) -> None:
    last = f"<keepdims={keepdims}>(a, axis)" if op == "ReduceSum" else f"<axes=[1], keepdims={keepdims}>(a)"
    source = model(
        f"(float[B,3,H,W] x) => (float[B,{'1,' * keepdims}H,W] o) <float[{N},3,1,1] w>",
        f"c = Conv(x, w)  m = Mul(c, k)  a = Add(m, shift)  o = {op}{last}",
        k=MASK.reshape(1, N, 1, 1),
        shift=shift.reshape(1, N, 1, 1),
        constants={"axis": np.asarray([1])},
    )
    result = compiled(source)
    whole = op in ("ReduceL1", "ReduceL2") and shift.any()
    assert weight(result, "Conv").shape[0] == (N if whole else LIVE)


def test_a_reduction_over_all_axes_counts_every_place_of_a_constant() -> None:
    for size in ("4,5", "H,W"):
        source = model(
            f"(float[B,3,{size}] x) => (float[B,1,1,1] o) <float[{N},3,1,1] w, float[1,{N},1,1] shift>",
            "c = Conv(x, w)  m = Mul(c, k)  a = Add(m, shift)  o = ReduceSum(a, axes)",
            k=MASK.reshape(1, N, 1, 1),
            axes=np.asarray([1, 2, 3]),
        )
        compiled(source)


def test_a_constant_channel_alone_is_left_to_the_operator() -> None:
    kept = np.ones(N, np.float32)
    kept[3] = 0
    assert "LayerNormalization" in operators(compiled(network("operator", SHIFTS["zeros"], k=kept)))


def test_equal_slices_stand_for_each_other_through_any_operator() -> None:
    source = model(
        f"(float[B,8] x) => (float[B,4] o) <float[8,{N}] w0, float[{N},4] w>",
        "x0 = MatMul(x, w0)  m = Mul(x0, k)  s = ReduceMean<axes=[1]>(x)  d = Sub(m, s)  e = Sigmoid(d)"
        "  o = MatMul(e, w)",
        k=MASK,
    )
    facts = analyse(prepared(source))
    assert facts.dependence["e", 1].mask.sum() == N - LIVE - 1
    assert weight(compiled(source), "MatMul", which=1).shape[0] == LIVE + 1


def test_representatives_are_chosen_so_that_factors_stay_near_one() -> None:
    rng = np.random.default_rng(0)
    for quantities in (1, 2):
        rows = rng.normal(size=(40, quantities)) * 10.0 ** rng.integers(-3, 4, size=(40, 1))
        found = linear_dependence.Combination(np.ones(40, bool), tuple(range(quantities)), rows, rng.normal(size=40))
        tied = linear_dependence.dependence(found)
        assert tied is not None and len(tied.reps) == quantities
        assert np.abs(tied.coef).max() <= linear_dependence.LARGEST
        atoms = rng.normal(size=quantities)
        values = rows @ atoms + found.shift
        follows = tied.coef @ values[tied.reps] + tied.shift
        np.testing.assert_allclose(follows[tied.mask], values[tied.mask], rtol=1e-9, atol=1e-9)


def test_three_independent_quantities_are_not_tied() -> None:
    found = linear_dependence.Combination(np.ones(9, bool), (0, 1, 2), random(9, 3).astype(np.float64), np.zeros(9))
    assert linear_dependence.dependence(found) is None


COUNTED = "s = ReduceSum<keepdims=0>(z, one)  f = Cast<to=1>(m)  c = ReduceSum<keepdims=0>(f, one)  d = Div(s, c)"


@pytest.mark.parametrize(
    "body",
    [
        f"z = Where(m, p, zero)  {COUNTED}  y = MatMul(d, w)",
        f"a = Add(p, bias)  z = Where(m, a, zero)  {COUNTED}  y = MatMul(d, w)",
        f"a = Add(p, bias)  f0 = Cast<to=1>(m)  z = Mul(f0, a)  {COUNTED}  y = MatMul(d, w)",
        "a = Add(p, bias)  z = Where(m, a, zero)  t = Transpose<perm=[0,2,1]>(z)  g = GlobalAveragePool(t)"
        "  s = Squeeze(g, two)  y = MatMul(s, w)",
        "a = Add(p, bias)  z = Where(m, a, zero)  t = Transpose<perm=[0,2,1]>(z)  y = Conv<pads=[1,1]>(t, w3)",
        "a = Add(p, bias)  q = MatMul(a, v)  f0 = Where(m, q, low)  s0 = Softmax<axis=1>(f0)"
        "  u = Transpose<perm=[0,2,1]>(s0)  e = MatMul(u, a)  o = MatMul(e, w)",
        f"z = Where(m, p, zero)  {COUNTED}  e = Mul(d, d)  y = Gemm(e, w, last)",
    ],
)
def test_channels_that_are_the_same_but_for_a_mask_of_run_time_stand_for_each_other(body: str) -> None:
    """Sums and means over the positions that it lets in, of which there may be none."""
    numbers = {"zero": np.float32(0), "low": np.float32(-1e9), "one": np.array([1]), "two": np.array([2])}
    output = "float[N,A,4] o" if "o = " in body else "float[N,4,T] y" if "Conv" in body else "float[N,4] y"
    source = model(
        f"(float[N,T,8] x, bool[N,T,1] m) => ({output})",
        f"h = MatMul(x, first)  p = Mul(h, k)  {body}",
        first=(8, N),
        k=MASK,
        w=(N, 4),
        constants={"bias": (N,), "w3": (4, N, 3), "v": (N, 1), "last": (4,), **numbers},
    )
    assert weight(compiled(source, T=(5, 2)), "MatMul").shape == (8, LIVE + 1)
    assert assert_exact(source, symbols={"T": (5,)})


def test_integers_are_no_multiples_of_each_other() -> None:
    source = model(
        "(int32[N,T,6] x, int32[N,T,1] s) => (int32[N,T,4] y)",
        "m = Mul(x, k)  a = Add(m, b)  p = Mul(a, s)  y = MatMul(p, w)",
        k=np.array([1, 0, 0, 0, 1, 0], np.int32),
        b=np.array([0, 3, 5, 7, 0, 9], np.int32),
        w=np.arange(24, dtype=np.int32).reshape(6, 4),
    )
    compiled(source)


def test_the_smallest_shift_represents_the_others() -> None:
    """Of a normalised constant times scales, plus biases: a large bias would hide the rest in half precision."""
    scale, bias = np.array([1.0, 0.5, 0.1, 1.2]), np.array([30.0, 0.01, 0.0, -8.0])
    found = linear_dependence.Combination(np.ones(4, bool), ("constant",), scale[:, None], bias)
    tied = linear_dependence.dependence(found)
    assert tied is not None and tied.reps.tolist() == [1]


@pytest.mark.parametrize("dtype", [np.int32, np.dtype(np.uint8), np.bool_, None, 17])
def test_types_without_steps_count_as_single_precision(dtype: object) -> None:
    """A product of integers may be typed as such where nobody infers that it is not."""
    assert limits(dtype) == limits(np.float32)
    assert rounds(2.0**24, dtype) and not rounds(1.0, dtype)
