"""Models that draw random numbers: the same are drawn in both of two models that are compared."""

import numpy as np
import pytest

import maskc as api
from maskc.verification.random_operators import draws
from passes import shrink
from tests.maskc import build
from tests.maskc.verification.networks import EVERY_SECOND

DRAWN = {
    "noise": "n = RandomNormalLike(m) s = Add(m, n)",
    "noise of a shape": "n = RandomNormal<shape=[16]>() s = Add(m, n)",
    "two": "n = RandomNormalLike(m) o = RandomUniformLike(m) p = Mul(n, o) s = Add(m, p)",
    "chance": "p = Sigmoid(m) n = Bernoulli(p) s = Mul(m, n)",
    "dropout": "s = Dropout(m, half, yes)",
    "dropout of weights": "d = Dropout(weights, half, yes) s = Add(m, d)",
}


# ONNX Runtime draws by the number of a node, which is another where nodes before it are gone.
@pytest.mark.slow
@pytest.mark.parametrize("form", DRAWN)
def test_networks_that_draw_are_compiled_and_compared(form: str) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in (("w", (8, 16)), ("v", (16, 4)), ("weights", (16,)))}
    source = build.model(
        "(float[n,8] x) => (float[n,4] y)",
        f"i = Identity(x) j = Identity(i) a = MatMul(j, w) m = Mul(a, mask) {DRAWN[form]} y = MatMul(s, v)",
        mask=EVERY_SECOND,
        half=np.float32(0.5),
        yes=np.True_,
        **weights,
    )
    compiled = shrink(source).model
    found = api.verify(source, compiled)
    assert found.passed and not any("Accepted" in note for note in found.notes), found.reasons
    stored = next(t.name for t in compiled.graph.initializer if t.name.startswith("v"))
    assert not api.verify(source, build.changed(compiled, stored, lambda v: v * np.float32(1.01))).passed


@pytest.mark.parametrize("trains", [True, False])
def test_a_dropout_draws_if_it_trains(trains: bool) -> None:
    """Else the model is not loaded anew for each run."""
    flag = f"trains = Constant<value = bool {{{int(trains)}}}>()"
    for body, given in ((flag, {}), ("", {"trains": np.asarray(trains)})):
        source = build.model(
            "(float[n,8] x) => (float[n,8] y)", f"{body} y = Dropout(x, half, trains)", half=0.5, **given
        )
        assert draws(source) == trains
