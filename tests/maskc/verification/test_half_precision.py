"""Half precision: what it rounds is accepted, and what it does not is refused."""

import numpy as np
import pytest

import maskc as api
from passes import shrink
from tests.generators.builder import Array
from tests.maskc import build
from tests.maskc.verification.networks import EVERY_SECOND, compared


def test_halves_are_judged_as_such() -> None:
    body = "h = Cast<to=10>(x) a = MatMul(h, w) r = Relu(a) m = Mul(r, mask) b = MatMul(m, v) y = Cast<to=1>(b)"
    rng = np.random.default_rng(0)
    halves = {name: rng.normal(size=shape).astype(np.float16) for name, shape in (("w", (8, 16)), ("v", (16, 4)))}
    mask = EVERY_SECOND.astype(np.float16)
    model = build.model("(float[n,8] x) => (float[n,4] y)", body, mask=mask, **halves)
    compiled = shrink(model).model
    assert api.verify(model, compiled).passed
    for name in ("w", "v"):
        stored = next(t.name for t in compiled.graph.initializer if t.name.startswith(name))
        assert not api.verify(model, build.changed(compiled, stored, lambda w: w * np.float16(1.1))).passed


def test_halves_that_magnify_rounding_to_all_of_an_output() -> None:
    """As a text detector on noise: single precision shows that half precision is as far off."""
    signature, rest = "(float16[n,64] x) => (float16[n,64] y)", "s = Sub(b, shift) m = Mul(s, far) y = Sigmoid(m)"
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.5, 2, 64).astype(np.float16) for name in ("w", "k")}
    weights |= {"shift": weights["w"] * weights["k"], "far": np.float16(30000)}
    source = build.model(signature, f"a = Mul(x, w) b = Mul(a, k) {rest}", **weights)
    merged = weights | {"w": weights["w"] * weights["k"]}
    other = build.model(signature, f"b = Mul(x, w) {rest}", **merged)
    inputs = {"x": np.ones((3, 64), np.float16)}
    found = api.verify(source, other, inputs=inputs)
    assert found.passed and max(output.max_abs for output in found.outputs) >= 0.5, found.reasons
    wrong = build.changed(other, "w", lambda w: w * np.float16(1.1))
    assert not api.verify(source, wrong, inputs=inputs).passed


@pytest.mark.parametrize("name", ["w", "v"])
def test_the_last_place_of_a_half_beside_channels_that_are_zero(name: str) -> None:
    """Weights that were only sliced are the same, and no region is taken in that may round what it stores."""
    body = "a = MatMul(x, w) m = Mul(a, mask) t = Tanh(m) y = MatMul(t, v)"
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 16)), "v": rng.normal(size=(16, 4)), "mask": EVERY_SECOND}
    halves = {name: values.astype(np.float16) for name, values in weights.items()}
    source = build.model("(float16[n,8] x) => (float16[n,4] y)", body, **halves)
    compiled = shrink(source).model
    assert api.verify(source, compiled).passed
    stored = next(t.name for t in compiled.graph.initializer if t.name.startswith(name))
    off = build.changed(compiled, stored, lambda w: np.where(w == w.max(), np.nextafter(w, np.float16(9)), w))
    assert not api.verify(source, off).passed


def test_a_small_weight_beside_large_ones_in_halves() -> None:
    """What its rounding may be is asked of each element, where the others may be zero."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(16, 4)), "s": rng.uniform(0.5, 2, 4), "b": rng.normal(size=4)}
    halves = {name: values.astype(np.float16) for name, values in weights.items()}
    body = "a = MatMul(x, w) m = Mul(a, s) y = Add(m, b)"
    source = build.model("(float16[n,16] x) => (float16[n,4] y)", body, **halves)
    compiled = shrink(source).model
    assert len(compiled.graph.node) == 2 and compared(source, compiled).complete
    small = np.quantile(np.abs(halves["w"] * halves["s"]), 0.1)

    def off(w: Array) -> Array:
        return np.where(np.abs(np.abs(w) - small) == np.abs(np.abs(w) - small).min(), w * np.float16(1.01), w)

    assert not compared(source, build.changed(compiled, "w", off)).complete


def test_an_epsilon_beside_computed_weights_in_halves() -> None:
    """It is written in single precision, so that no rounding of weights explains another."""
    rng = np.random.default_rng(0)
    signature, vectors = "(float16[n,7] x) => (float16[n,7] y)", ("f", "scale", "shift", "mean", "var")
    halves = {name: rng.uniform(0.5, 2, 7).astype(np.float16) for name in vectors}
    normal = "y = BatchNormalization<epsilon={}>({}, scale, shift, mean, var)"
    source = build.model(signature, f"m = Mul(x, f) {normal.format(0.001, 'm')}", **halves)
    merged = halves | {"scale": halves["scale"] * halves["f"], "mean": halves["mean"] / halves["f"]}
    del merged["f"]
    for epsilon in (0.001, 0.0012):
        other = build.model(signature, normal.format(epsilon, "x"), **merged)
        assert compared(source, other).complete == (epsilon == 0.001)


def test_many_operators_of_constants_in_halves() -> None:
    """What each of them rounds adds up like the steps of a random walk, and a weight that is 1% off is no rounding."""
    body, last = "", "w"
    for i in range(32):
        last, before = f"w{i}", last
        body += f"{last} = {'Mul' if i % 2 else 'Add'}({before}, k{i}) "
    rng = np.random.default_rng(0)
    halves = {f"k{i}": rng.uniform(0.8, 1.2, (8, 4)).astype(np.float16) for i in range(32)}
    halves["w"] = rng.normal(size=(8, 4)).astype(np.float16)
    source = build.model("(float16[n,8] x) => (float16[n,4] y)", f"{body} y = MatMul(x, {last})", **halves)
    compiled = shrink(source).model
    assert len(compiled.graph.node) == 1 and compared(source, compiled).complete
    stored = compiled.graph.initializer[0].name
    off = build.changed(compiled, stored, lambda w: np.where(w == w.max(), w * np.float16(1.01), w))
    assert not compared(source, off).complete


def test_what_is_too_small_for_a_half() -> None:
    """A constant is 0 there where the source, of which regions are computed in single precision, is not."""
    body = "n = Mul(x, nil) a = Add(n, small) b = Mul(a, small) c = Mul(b, small) y = Mul(c, small)"
    halves = {"nil": np.zeros(4, np.float16), "small": np.full(4, 5e-3, np.float16)}
    source = build.model("(float16[n,4] x) => (float16[n,4] y)", body, **halves)
    assert api.verify(source, shrink(source).model).passed


@pytest.mark.parametrize("seed", [0, 1])
def test_one_row_of_logits_in_halves(seed: int) -> None:
    """As of a decoder's step: a logit near 0 is off by much of its size."""
    body = """
        n, , , s = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=1e-5>(x, r, g)  k = Mul(n, keep)
        a = MatMul(k, w)  b = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=1e-5>(a, s, g)  y = MatMul(b, v)
    """
    rng = np.random.default_rng(seed)
    shapes = {"g": (64,), "w": (64, 64), "v": (64, 50)}
    halves = {name: rng.normal(name == "g", 0.3, shape).astype(np.float16) for name, shape in shapes.items()}
    halves["keep"] = np.tile([1.0, 0.0], 32).astype(np.float16)
    source = build.model("(float16[1,1,64] x, float16[1,1,64] r) => (float16[1,1,50] y)", body, **halves)
    compiled = shrink(source).model
    assert api.verify(source, compiled).verdict == "verified"
    for name in ("w", "v"):
        stored = next(t.name for t in compiled.graph.initializer if t.name.startswith(name))
        wrong = build.changed(compiled, stored, lambda w: np.concatenate([w[:, :5] * np.float16(1.05), w[:, 5:]], 1))
        assert not api.verify(source, wrong).passed, name
