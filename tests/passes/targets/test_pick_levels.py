"""Channels that are picked of quantised tensors, before these are dequantised."""

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.generators.running import Runner
from tests.passes.text import mask, model, random

PICKED = "g = Gather<axis=1>(d, some)"
PADDED = "p = Pad(d, ends)  g = Gather<axis=1>(p, places)"


def quantised(picked: str, kind: type, channels: int, steps: str = "scale") -> onnx.ModelProto:
    body = f"""
        q = QuantizeLinear<axis=1>(x, {steps}, zero)  d = DequantizeLinear<axis=1>(q, {steps}, zero)
        {picked}  r = Add(g, e)  c = Conv(r, w)  m = Mul(c, k)  y = Conv(m, v)  z = Relu(d)
    """
    numbers = {"scale": np.float32(0.05), "many": np.full(6, 0.05, np.float32), "some": np.array([0, 2, 5])}
    numbers |= {"zero": np.full(6, 3, kind) if steps == "many" else kind(3), "ends": np.array([0, 0, 0, 0, 0, 1, 0, 0])}
    numbers |= {"places": np.array([0, 6, 1, -1, 2, 3, 6, 4, 5])}
    weights = {"w": random(8, channels, 1, 1), "v": random(4, 8, 1, 1), "k": mask(1, 0, 1, 0, 1, 0, 1, 0)}
    signature = f"(float[N,6,4,4] x, float[N,{channels},4,4] e) => (float[N,4,4,4] y, float[N,6,4,4] z)"
    return model(signature, body, **numbers, **weights)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (quantised(PICKED, np.uint8, 3), "Gather DequantizeLinear Add"),
        (quantised(PICKED, np.int8, 3), "Gather DequantizeLinear Add"),
        (quantised(PADDED, np.uint8, 9), "Gather Where DequantizeLinear Add"),
        (quantised(PADDED, np.int8, 9), "DequantizeLinear Gather Mul Add"),  # there is no such Where
        (quantised(PICKED, np.uint8, 3, "many"), "DequantizeLinear Gather Add"),
    ],
)
def test_levels_are_picked(source: onnx.ModelProto, expected: str) -> None:
    made = shrink(source).model
    operators = " ".join(node.op_type for node in made.graph.node)
    assert f" {expected} " in operators and operators.count("Gather") == 1
    feeds = {
        value.name: random(2, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:]))
        for value in source.graph.input
    }
    for one, other in zip(Runner(source)(feeds), Runner(made)(feeds), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
