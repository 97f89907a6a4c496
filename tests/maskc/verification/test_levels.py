"""Quantised levels and other integers: any level is tried, and rounding excuses a step only where it may make one."""

import numpy as np
import pytest

import maskc as api
from maskc.runtime import onnxruntime_session
from maskc.verification.compare_regions import compare_regions
from passes.rewriting.origins import Origins
from tests.maskc import build
from tests.maskc.verification.networks import proof_of
from tests.passes.text import random


def test_integers_that_are_compared_have_no_rounding_that_leads_to_another_step() -> None:
    """One-hot codes times a matrix are its rows: none of its elements may be off, be they few and little."""
    signature, body = "(int64[n] i) => (float16[n,64] y)", "u = Unsqueeze(i, last) e = Equal(u, all) c = Cast<to=10>(e)"
    table, operands = random(5, 64).astype(np.float16), {"last": np.array([1]), "all": np.arange(5)[None]}
    source = build.model(signature, f"{body} y = MatMul(c, w)", w=table, **operands)
    numbers = {"one": np.array(1), "none": np.array(0), "most": np.array(6), "r": np.pad(table, ((1, 1), (0, 0)))}
    body = "a = Add(i, one) k = Clip(a, none, most) y = Gather(r, k)"  # and zeros of what is none of these
    right = build.model(signature, body, **numbers)
    wrong = build.changed(right, "r", lambda w: w + np.float16(0.1) * (np.arange(w.size).reshape(w.shape) == 134))
    for seed in range(4):
        assert proof_of(source, right, seed).complete
        assert not proof_of(source, wrong, seed).complete


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_level_that_no_run_reaches(kind: type) -> None:
    """A zero point is off by one wherever it stands, which shows at the last of 256 levels alone."""
    end, step = np.iinfo(kind), np.float32(0.1)
    model = build.model(
        "(float[n,4] x) => (float[n,4] y)",
        """q = QuantizeLinear(x, step, zero) d = DequantizeLinear(q, step, zero) s = Add(d, b)
        r = QuantizeLinear(s, step, point) y = DequantizeLinear(r, step, point)""",
        19,
        step=step,
        zero=kind((int(end.min) + int(end.max) + 1) // 2),
        point=kind((int(end.min) + int(end.max) + 1) // 2),
        b=np.full(4, 0.03, np.float32),
    )
    wrong = build.changed(model, "point", lambda point: point + kind(1))
    for seed in range(5):
        assert proof_of(model, model, seed).complete
        assert proof_of(model, wrong, seed).first() is not None, seed


@pytest.mark.parametrize("weight", ["w", "v"])
def test_a_step_of_one_weight_in_8_bits(weight: str) -> None:
    """`w` moves few levels by one, as a rounding before them might; `v` reads what has the least level in all runs."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (16, 8, 1, 1))
    w[3] = 100
    model = build.model(
        "(float[n,8,12,12] x) => (float[n,4,12,12] y)",
        """q = QuantizeLinear(x, step, zero) c = QLinearConv(q, step, zero, w, fine, none, half, zero, b)
        d = DequantizeLinear(c, half, zero) e = DequantizeLinear(v, fine, none) y = Conv(d, e)""",
        step=np.float32(0.03),
        half=np.float32(0.02),
        fine=np.float32(0.002),
        zero=np.uint8(0),
        none=np.int8(0),
        w=w.astype(np.int8),
        v=rng.integers(-100, 101, (4, 16, 1, 1)).astype(np.int8),
        b=np.where(np.arange(16) == 3, -120_000, 0).astype(np.int32),  # no run has so large data
    )
    for seed, row in enumerate((4, 5, 6)):
        place = 8 * row if weight == "w" else 3
        wrong = build.changed(model, weight, lambda w, at=place: w + np.eye(1, w.size, at, np.int8).reshape(w.shape))
        assert proof_of(model, model, seed).complete
        assert proof_of(model, wrong, seed).first() is not None, seed


@pytest.mark.parametrize("kind", ["int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
def test_levels_of_types_that_numpy_has_not(kind: str) -> None:
    """They are no ends of regions: those go through them."""
    model = build.model(
        "(float[n,8] x) => (float[n,4] y)",
        """h = MatMul(x, w) q = QuantizeLinear(h, step, zero) d = DequantizeLinear(q, step, zero) r = Relu(d)
        p = QuantizeLinear(r, step, zero) e = DequantizeLinear(p, step, zero) y = MatMul(e, v)""",
        21,
        w=random(8, 6),
        v=random(6, 4, seed=1),
        step=np.float32(0.4),
        zero=np.zeros((), kind),
    )
    assert proof_of(model, model, 0).complete
    for name in ("w", "v", "step"):
        wrong = build.changed(model, name, lambda w: w * np.float32(1.1))
        assert proof_of(model, wrong, 0).first() is not None, name


def test_sizes_of_levels_are_those_of_a_run() -> None:
    model = build.model(
        "(float[n,t,8] x) => (float[?,?] y)",
        """q = QuantizeLinear(x, step, point) t = Shape(q) r = Gather(t, first) g = Concat<axis=0>(r, rest)
        v = Reshape(q, g) y = DequantizeLinear(v, step, point)""",
        13,
        step=np.float32(0.1),
        point=np.uint8(128),
        first=np.array([0]),
        rest=np.array([-1]),
    )
    checker = proof_of(model, model, 0).checker
    for turn in range(-3, 4):
        assert checker.fresh("t", turn).tolist() == [*checker.fresh("q", turn).shape]


def test_integers_of_which_one_side_computes_in_single() -> None:
    """They may be a step apart at some, at all of a channel of one level even: of integers there are few."""
    steps = {"s": np.array(0.037, np.float32), "t": np.array(0.021, np.float32), "u": np.array(0.05, np.float32)}
    zeros = {"z": np.array(120, np.uint8)}
    signature = "(uint8[n,128,17,1] a, uint8[n,128,17,1] b) => (uint8[n,128,17,1] y)"
    fused = build.model(signature, "y = com.microsoft.QLinearAdd(a, s, z, b, t, z, u, z)", **steps, **zeros)
    body = "d = DequantizeLinear(a, s, z) e = DequantizeLinear(b, t, z) f = Add(d, e) y = QuantizeLinear(f, u, z)"
    single = build.model(signature, body, **steps, **zeros)
    wrong = build.changed(single, "t", lambda t: t * np.float32(1.02))
    rng = np.random.default_rng(0)
    feeds = [{name: rng.integers(0, 256, (rows, 128, 17, 1), np.uint8) for name in "ab"} for rows in (1, 3, 2)]
    assert compare_regions(fused, single, feeds, Origins(), 0).proof.complete
    assert not compare_regions(fused, wrong, feeds, Origins(), 0).proof.complete


def test_an_integer_beside_data_allows_no_more_steps() -> None:
    """Of data there are many values, of which few lie between two steps."""
    scale = np.random.default_rng(0).uniform(20, 40, 512).astype(np.float32)
    body = "{0}c = Cast<to=1>(i) {0}a = Add(x, {0}c) {0}m = Mul({0}a, k) y = Floor({0}m)"
    models = [build.model("(float[n,512] x, int64[n,1] i) => (float[n,512] y)", body.format(p), k=scale) for p in "pq"]
    wrong = build.changed(models[1], "k", lambda k: np.where(np.arange(512) == 137, 1.01 * k, k))
    assert proof_of(*models, 0).complete
    assert not proof_of(models[0], wrong, 0).complete


def test_a_masked_channel_behind_many_steps() -> None:
    """Levels are claimed as other values are: no region has to reach back to the mask."""
    body = "m0 = Mul(x, mask) "
    for k in range(8):
        body += f"q{k} = QuantizeLinear(m{k}, step, zero) d{k} = DequantizeLinear(q{k}, step, zero) "
        body += f"m{k + 1} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(d{k}) "
    body += "q = QuantizeLinear(m8, step, zero) d = DequantizeLinear(q, step, zero) y = Conv(d, w)"
    weights = {"mask": np.arange(4.0).reshape(1, 4, 1, 1) % 2, "w": random(3, 4, 1, 1)}
    steps = {"step": np.float32(0.05), "zero": np.uint8(100)}
    model = build.model("(float[n,4,6,6] x) => (float[n,3,6,6] y)", body, **weights, **steps)
    compiled = api.compile(model, align="none")
    assert compiled.report.verified and compiled.report.channels_removed
    assert api.verify(model, compiled.model).passed  # nothing is known of the compiler there


def test_masked_heads_behind_integer_sums() -> None:
    """Sums of integers are claimed, too: what channels of each head are removed followed from a product far before."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-100, 100, (8, 48)).astype(np.int8)
    heads = [np.concatenate([rng.permutation(8) < 4 for _ in range(2)]) for _ in range(2)]
    keep = np.concatenate([heads[0], heads[0], heads[1]])
    model = build.model(
        "(float[n,4,8] x) => (float[n,4,5] y)",
        """q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z) f = Cast<to=1>(i) t = Mul(s, step)
        a = Mul(f, t) b = Add(a, bias) r = Reshape(b, heads) p = Transpose<perm=[2,0,3,1,4]>(r)
        q0, k0, v0 = Split<axis=0>(p, ones) q1 = Squeeze(q0, first) k1 = Squeeze(k0, first) v1 = Squeeze(v0, first)
        k2 = Transpose<perm=[0,1,3,2]>(k1) l = MatMul(q1, k2) m = Softmax(l) o = MatMul(m, v1)
        u = Transpose<perm=[0,2,1,3]>(o) g = Reshape(u, joined) gq, gs, gz = DynamicQuantizeLinear(g)
        c = MatMulInteger(gq, v, gz) d = Cast<to=1>(c) e = Mul(gs, step) y = Mul(d, e)""",
        w=np.where(keep, weight, 0).astype(np.int8),
        bias=np.where(keep, random(48), 0),
        step=np.array(0.01),
        heads=np.array([0, 0, 3, 2, 8]),
        ones=np.array([1, 1, 1]),
        first=np.array([0]),
        joined=np.array([0, 0, 16]),
        v=rng.integers(-100, 100, (16, 5)).astype(np.int8),
    )
    compiled = api.compile(model)
    assert compiled.report.verified and compiled.report.channels_removed
    assert api.verify(model, compiled.model).passed


def test_weights_of_channels_without_zero_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes sums of 8-bit products exact without VNNI fails on these in ONNX Runtime."""
    monkeypatch.setattr(onnxruntime_session, "clips_products", lambda: True)
    weight = np.random.default_rng(0).integers(-100, 100, (6, 4)).astype(np.int8)
    model = build.model(
        "(float[n,6] x) => (float[n,4] y)",
        "d = DequantizeLinear<axis=1>(w, s) y = MatMul(x, d)",
        w=weight,
        s=np.array([0.1, 0.2, 0.1, 0.3]),
    )
    assert api.verify(model, model).passed


@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_bias_that_the_runtime_rounds_is_told(bias: str) -> None:
    """Where data and weights are quantised and the bias is not, as after training with simulated quantisation."""
    body = f"""
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        v = DequantizeLinear(w, t)
        y = Gemm(d, v{bias})
    """
    constants = {"s": np.float32(0.1), "z": np.uint8(128), "t": np.float32(0.02), "b": np.ones(4, np.float32)}
    weights = np.arange(-16, 16, dtype=np.int8).reshape(8, 4)
    model = build.model("(float[n,8] x) => (float[n,4] y)", body, 17, checked=False, w=weights, **constants)
    notes = api.verify(model, model).notes
    assert bool(bias) == any("optimization.disable_specified_optimizers=WeightBiasQuantization" in n for n in notes)
