"""A Relu that a mask kept apart from a quantisation to 8-bit floats."""

import numpy as np
import pytest

from passes import shrink
from tests.passes.text import compiled, model, operators, random


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_relu_before_float8(kind: str) -> None:
    body = "h = MatMul(x, w) {} q = QuantizeLinear(m, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, v)"
    given = {"w": random(4, 6), "k": np.array([1, 0, 1, 1, 0, 1], np.float32), "v": random(6, 3, seed=1)}
    given |= {"s": np.array(0.1, np.float32), "z": np.zeros((), kind)}
    signature = "(float[n,4] x) => (float[n,3] y)"
    masked = model(signature, body.format("r = Relu(h) m = Mul(r, k)"), 21, constants=given)
    assert "Max" in operators(compiled(masked))
    plain = model(signature, body.format("m = Relu(h)"), 21, constants=given)
    assert "Relu" in operators(shrink(plain))  # as wrong as its source
