"""Data and their product with a gate are added as one product."""

import onnx
import pytest

from tests.passes.text import Array, compiled, mask, model, operators, random, weight

POOLED = "p = GlobalAveragePool(c) s = Conv(p, v) g = Sigmoid(s) m = Mul(c, g)"


def block(body: str, signature: str = "(float[N,3,H,W] x) => (float[N,4,H,W] y)", **more: Array) -> onnx.ModelProto:
    """A convolution `c` and a gate `g` of it, one number for each channel."""
    return model(signature, f"c = Conv(x, w) {body}", w=random(4, 3, 1, 1), v=random(4, 4, 1, 1, seed=1), **more)


@pytest.mark.parametrize(
    "body",
    [f"{POOLED} y = Add(c, m)", f"{POOLED} y = Add(m, c)", POOLED.replace("Mul(c, g)", "Mul(g, c)") + " y = Add(c, m)"],
)
def test_a_gate_is_one_more(body: str) -> None:
    result = compiled(block(body))
    assert operators(result) == ["Conv", "GlobalAveragePool", "Conv", "Sigmoid", "Add", "Mul"]
    assert result.report.after.flops < result.report.before.flops


def test_a_gate_for_each_position_too() -> None:
    result = compiled(block("s = Conv(c, u) g = Sigmoid(s) m = Mul(c, g) y = Add(c, m)", u=random(1, 4, 1, 1)))
    assert operators(result) == ["Conv", "Conv", "Sigmoid", "Add", "Mul"]


def test_channels_that_are_masked_go() -> None:
    body = f"{POOLED} a = Add(c, m) b = Mul(a, k) y = Conv(b, z)"
    result = compiled(block(body, k=mask(1, 0, 0, 1), z=random(4, 4, 1, 1, seed=3)))
    assert weight(result, "Conv", which=2).shape == (4, 2, 1, 1)
    assert operators(result) == ["Conv", "GlobalAveragePool", "Conv", "Sigmoid", "Gather", "Add", "Mul", "Conv"]


@pytest.mark.parametrize(
    "body",
    [
        "m = Mul(c, c) y = Add(c, m)",
        "g = Sigmoid(c) m = Mul(c, g) y = Add(c, m)",  # as large as the data
        f"{POOLED} r = Relu(c) y = Add(r, m)",  # other data
        f"{POOLED} y = Sub(c, m)",
        f"{POOLED} a = Add(c, m) y = Mul(a, m)",  # the product is read twice
    ],
)
def test_others_stay(body: str) -> None:
    source = block(body)
    assert operators(compiled(source)) == [node.op_type for node in source.graph.node]


@pytest.mark.parametrize(
    ("signature", "first"),
    [
        ("(float[1,4] x, float[3,1] g) => (float[3,4] y)", "Add"),  # both may be spread
        ("(float16[2,4,3,3] x, float16[2,4,1,1] g) => (float16[2,4,3,3] y)", "Add"),
        ("(float[1,4] x, float[3,4] g) => (float[3,4] y)", "Mul"),  # the gate is as large as the product
        ("(int64[3,4] x, int64[1,4] g) => (int64[3,4] y)", "Mul"),
    ],
)
def test_of_inputs(signature: str, first: str) -> None:
    assert operators(compiled(model(signature, "m = Mul(x, g) y = Add(x, m)")))[0] == first


def test_the_product_is_an_output_too() -> None:
    source = block(f"{POOLED} y = Add(c, m)", "(float[N,3,H,W] x) => (float[N,4,H,W] y, float[N,4,H,W] m)")
    assert operators(compiled(source))[-2:] == ["Mul", "Add"]
