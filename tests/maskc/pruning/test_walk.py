"""Models that are run in steps."""

import numpy as np
import pytest

from maskc.pruning import walk
from maskc.pruning.walk import Walk
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from tests.maskc.pruning.networks import network

TEXT = """g (float[n,4] x) => (float[n,4] y) { a = Add(x, one) b = Mul(a, two) c = Relu(b) d = Add(c, a)
    e = Mul(d, three) y = Sub(e, x) }"""
GIVEN = {"one": np.float32(-1), "two": np.float32(2), "three": np.float32(3)}


@pytest.mark.parametrize("held", [2**28, 1])
def test_tensors_that_are_not_held_are_made_again(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what they are in the whole model, with the constants that were given before a step."""
    monkeypatch.setattr(walk, "_HELD", held)
    rng = np.random.default_rng(0)
    batches = [{"x": rng.normal(size=(3, 4)).astype(np.float32)} for _ in range(3)]
    steps = Walk(network(TEXT, GIVEN), batches)
    for tensor in ("a", "c", "e"):
        if tensor == "e":
            steps.give({"three": np.float32(5)})
        found = list(steps.to(tensor))
        shown = network(TEXT.replace("(float[n,4] y)", f"(float[n,4] {tensor})"), GIVEN | {"three": np.float32(5)})
        for batch, array in zip(batches, found, strict=True):
            np.testing.assert_allclose(array, OnnxRuntimeSession(shown).run(batch)[tensor], rtol=1e-6)
        assert len(steps.to(tensor)) == 3  # asked for once more
    assert (set(steps.values[0]) == {"x"}) == (held == 1)
