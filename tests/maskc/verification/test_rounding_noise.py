"""Functions that magnify rounding are allowed what rounding does to the reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import maskc as api
from tests.maskc import build


def stepped() -> onnx.ModelProto:
    """A network whose outputs are rounded to steps of 1/256, so that a tiny error may become a whole step."""
    body = "hidden = MatMul(x, w1) smooth = MatMul(hidden, w2) rounded = Add(smooth, far) y = Sub(rounded, far)"
    weights = {"w1": (8, 64), "w2": (64, 512), "far": np.array(2.0**15)}
    return build.model("(float[n,8] x) => (float[n,512] y)", body, **weights)


def summed_otherwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with the hidden channels in another order."""
    order = np.random.default_rng(0).permutation(64)
    return build.changed(build.changed(model, "w1", lambda w: w[:, order]), "w2", lambda w: w[order])


def test_steps_are_allowed_the_noise_of_the_reference() -> None:
    model = stepped()
    result = api.verify(model, summed_otherwise(model))
    assert result.passed, result.reasons
    assert any(output.noise for output in result.outputs)
    assert any("rounding" in note for note in result.notes)


def ranged(factor: float = 1.0) -> onnx.ModelProto:
    """x[n,64] → Log of the squares, brought to the range from 0 to 1, which silence does not have, and a MatMul."""
    body = """
        h = MatMul(x, w1)
        squares = Mul(h, h)
        powers = Add(squares, tiny)
        logs = Log(powers)
        scaled = Mul(logs, same)
        low = ReduceMin<axes=[1]>(scaled)
        above = Sub(scaled, low)
        range = ReduceMax<axes=[1]>(above)
        silent = Equal(range, nothing)
        divisor = Where(silent, one, range)
        ratio = Div(above, divisor)
        y = MatMul(ratio, w2)
    """
    scalars = {"tiny": np.array(1e-10), "nothing": np.array(0.0), "one": np.array(1.0)}
    same = np.tile(np.array([1.0, factor], np.float32), 32)
    return build.model("(float[n,64] x) => (float[n,4] y)", body, w1=(64, 64), w2=(64, 4), same=same, **scalars)


def test_silence_that_is_divided_by_its_range_is_allowed_the_rounding_of_a_logarithm() -> None:
    """All powers are the same there, and all logarithms but for how they are rounded."""
    model = ranged()
    last_place = 1 + float(np.finfo(np.float32).eps)
    result = api.verify(model, ranged(last_place), exact=False)
    assert result.passed, result.reasons
    assert not api.verify(model, ranged(1.001), exact=False).passed


def test_noise_does_not_hide_a_difference() -> None:
    model = stepped()
    assert not api.verify(model, build.changed(model, "w2", lambda w: w * np.float32(1.01))).passed


def test_classes_may_flip_only_where_the_reference_flips() -> None:
    body = "scores = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(scores)"
    model = build.model("(float[n,8] x) => (int64[n] y)", body, w=(8, 5))
    assert api.verify(model, model).passed
    assert not api.verify(model, build.changed(model, "w", lambda w: w[:, ::-1])).passed


def test_saturated_outputs_are_compared_at_their_own_scale() -> None:
    body = "scores = MatMul(x, w) low = Sub(scores, far) y = Sigmoid(low)"
    model = build.model("(float[n,8] x) => (float[n,5] y)", body, w=(8, 5), far=np.array(30.0))
    assert api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1 + 1e-7))).passed
    assert not api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1.01))).passed


def test_nans_must_be_where_they_were() -> None:
    model = build.model("(float[n,8] x) => (float[n,8] y)", "d = Sub(x, shift) y = Log(d)", shift=np.zeros(8))
    assert api.verify(model, model).passed
    result = api.verify(model, build.changed(model, "shift", lambda s: s + 1))
    assert not result.passed and "NaN" in result.reasons[0]


def variance(*, stable: bool, factor: float = 1.0) -> onnx.ModelProto:
    """x[n,64] → Add of 1,000 → its variance, as the mean square less the squared mean, or in the way that is stable."""
    if stable:
        body = "d = Sub(h, mean) dd = Mul(d, d) v = ReduceMean<axes=[1]>(dd)"
    else:
        body = "hh = Mul(h, h) power = ReduceMean<axes=[1]>(hh) squared = Mul(mean, mean) v = Sub(power, squared)"
    body = f"h = Add(x, far) mean = ReduceMean<axes=[1]>(h) {body} y = Mul(v, factor)"
    weights = {"far": np.array(1000.0), "factor": np.array(factor)}
    return build.model("(float[n,64] x) => (float[n,1] y)", body, **weights)


def test_what_the_reference_gives_in_double_precision_is_right_where_it_is_off_itself() -> None:
    result = api.verify(variance(stable=False), variance(stable=True), exact=False)
    assert result.passed, result.reasons
    assert any("distance from double precision" in note for note in result.notes)
    assert not api.verify(variance(stable=False), variance(stable=True, factor=1.01), exact=False).passed
    assert not api.verify(variance(stable=True), variance(stable=False), exact=False).passed


@pytest.mark.parametrize("opset", [13, 18])
def test_a_mean_of_thousands_of_equal_numbers_may_be_exact(opset: int) -> None:
    """The kernel's sum of them is off, and nothing has a double form here that would show it."""
    signature, means = "(float[1,2,128,128] x) => (float[1,4] y)", [0.7, 0.1, 0.3]
    body = "c = Conv(x, k, b) a = Celu(c) m = GlobalAveragePool(a) f = Flatten(m) y = MatMul(f, w)"
    w = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    built = build.model(signature, body, opset, k=np.zeros((3, 2, 1, 1)), b=np.array(means), w=w)
    body = "z = Mul(x, none) s = ReduceSum<keepdims=0>(z, axes) y = Add(s, mean)"
    weights = {"none": np.array(0.0), "axes": np.array([1, 2, 3]), "mean": np.array([means]) @ w.astype(np.float64)}
    exact = build.model(signature, body, opset, **weights)
    result = api.verify(built, exact, samples=2)
    assert result.equivalent, result.reasons
    assert not api.verify(built, build.changed(exact, "mean", lambda mean: mean * 1.01), samples=2).equivalent
