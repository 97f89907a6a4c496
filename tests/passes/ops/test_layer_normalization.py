"""LayerNormalization over masked channels: one operator, with zeros for what is not there."""

import numpy as np
import pytest

from passes import shrink
from tests.generators.running import Runner
from tests.passes.text import model, operators, random

BODY = "a = MatMul(x, w)  m = Mul(a, k)  n = LayerNormalization<axis=-1>(m, s{})  y = MatMul(n, v)"


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("masked", [range(1, 16, 2), range(8), range(8, 16)])
def test_zeros_are_put_behind_what_is_there(bias: str, masked: range) -> None:
    kept = np.ones(16, np.float32)
    kept[list(masked)] = 0
    weights = {"w": random(6, 16), "k": kept, "s": random(16, seed=1), "b": random(16, seed=2), "v": random(16, 4)}
    source = model("(float[N,T,6] x) => (float[N,T,4] y)", BODY.format(bias), **weights)
    result = shrink(source)
    made = result.model
    assert operators(result)[:5] == ["MatMul", "Pad", "LayerNormalization", "Slice", "MatMul"]
    sizes = {tensor.name: list(tensor.dims) for tensor in made.graph.initializer}
    assert sizes["w"] == [6, 8] and sizes["v"] == [9, 4]  # those that are masked are alike, and one stands for all
    feeds = {"x": random(2, 5, 6, seed=3)}
    np.testing.assert_allclose(Runner(made)(feeds)[0], Runner(source)(feeds)[0], atol=1e-5)
