"""Scales and shifts that leave channels in blocks."""

import math
from typing import Any

import numpy as np
import onnx
import pytest

from passes import shrink
from passes.targets.onnxruntime.processors import RATES
from tests.generators.check import assert_same_function
from tests.passes import text
from tests.passes.text import compiled, mask, model

AVX512 = RATES["avx512"]
CONSTANTS = {"s": (32, 1, 1), "t": (32, 1, 1), "one": (1,), "s1": (16, 32, 1, 1), "s2": (32, 16, 1, 1)}
CONSTANTS |= {"root": np.float32(math.sqrt(2)), "unit": np.float32(1), "half_": np.float32(0.5)}
GATE = "p = GlobalAveragePool(r)\n q = Conv(p, s1)\n e = Relu(q)\n g = Conv(e, s2)\n gate = HardSigmoid(g)\n"


def between(middle: str, signature: str = "(float[1,16,28,28] x) => (float[1,16,28,28] y)") -> onnx.ModelProto:
    """Something in front of a padded convolution, from `r` to `a`, behind a layer half of which is masked."""
    return model(
        f"{signature} <float[32,16,1,1] u, float[32,32,1,1] w, float[16,32,3,3] v>",
        f"h = Conv(x, u)\n k = Mul(h, half)\n c = Conv(k, w)\n r = Sigmoid(c)\n {middle}\n"
        " y = Conv<pads=[1,1,1,1]>(a, v)",
        half=mask(*[1, 0] * 16),
        constants=CONSTANTS,
    )


def operators(source: onnx.ModelProto, **options: Any) -> list[str]:
    return text.operators(compiled(source, **options))


@pytest.mark.parametrize(
    "middle",
    [
        "m = Mul(r, s)\n a = Add(m, t)",
        "m = Mul(one, r)\n a = Add(m, t)",
        "m = Mul(r, s)\n n = Add(m, t)\n o = Mul(n, one)\n a = Sub(o, t)",
        "a = Sub(r, t)",
        "a = Add(r, one)",
    ],
)
def test_a_scale_and_shift_in_front_of_a_padded_convolution(middle: str) -> None:
    source = between(middle)
    assert operators(source, align=AVX512) == ["Conv", "Conv", "Sigmoid", "BatchNormalization", "Conv"]
    assert "BatchNormalization" not in operators(source)


def test_what_is_not_in_blocks_stays_as_it_is() -> None:
    assert "BatchNormalization" not in operators(
        between("p = Transpose<perm=[0,1,3,2]>(r)\n a = Add(p, t)"), align=AVX512
    )


def test_what_others_read_in_between_stays() -> None:
    source = between(
        "m = Mul(r, s)\n a = Add(m, t)", signature="(float[1,16,28,28] x) => (float[1,16,28,28] y, float[1,32,28,28] m)"
    )
    assert operators(source, align=AVX512).count("Mul") == 1


def test_the_model_it_was_made_of_is_understood_again() -> None:
    """A BatchNormalization that was written is read like any other when the result is compiled again."""
    once = shrink(between("m = Mul(r, s)\n a = Add(m, t)"), align=AVX512).model
    twice = shrink(once, align=AVX512).model
    assert_same_function(once, twice)


def test_a_gate_is_brought_to_the_places_of_what_it_multiplies() -> None:
    for product in ("Mul(r, gate)", "Mul(gate, r)"):
        source = between(f"{GATE} a = {product}")
        assert operators(source, align=AVX512, target="onnxruntime").count("Resize") == 1
        assert "Resize" not in operators(source, align=AVX512)  # for any runtime


def test_an_open_batch_is_known_after_a_gate_that_was_spread() -> None:
    """Inference forgets it at the Resize, and ONNX Runtime would take the sizes of what it multiplies for others."""
    source = between(f"{GATE} a = Mul(r, gate)", "(float[N,16,28,28] x) => (float[N,16,28,28] y)")
    result = shrink(source, align=AVX512, target="onnxruntime").model
    assert_same_function(source, result, symbols={"N": (1, 3)})
    assert "Resize" in [node.op_type for node in result.graph.node]
    inferred = onnx.shape_inference.infer_shapes(result, data_prop=True).graph.value_info
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in inferred} == {"N"}


@pytest.mark.parametrize("order", ["h = Mul(r, e)\n a = Mul(h, half_)", "h = Mul(r, half_)\n a = Mul(h, e)"])
def test_a_gelu_that_is_spelled_out_stays_so(order: str) -> None:
    """ONNX Runtime makes one operator of it, on channels in blocks, but not where a BatchNormalization stands in it."""
    spelled = f"d = Div(r, root)\n f = Erf(d)\n e = Add(f, unit)\n {order.replace('h = ', 'p = ').replace('(h', '(p')}"
    source = between(spelled)
    result = operators(source, align=AVX512)
    assert result == operators(source, align=4)
    assert "Erf" in result


def test_a_scale_whose_readers_are_not_on_blocks_stays_as_it_is() -> None:
    source = between("m = Mul(r, s)\n n = Add(m, t)\n a = Elu(n)")
    assert "BatchNormalization" not in operators(source, align=AVX512)
