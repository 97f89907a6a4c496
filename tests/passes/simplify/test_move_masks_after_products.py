"""Masks that an exporter made one constant with a factor of a product."""

import numpy as np
import onnx
import pytest

from passes.sizes.prepare import prepared
from tests.passes.text import compiled, exact, left_over, mask, model, operators, random

CHANNELS = 16
SIGNATURE = "(float[N,3,8,8] x) => (float[N,4,8,8] y)"
#: x · (clip(x + 3, 0, 6) · factor) · mask, as it is written and as TensorFlow exports it
APART = "e = Mul(d, sixth)\n h = Mul(c, e)\n m = Mul(h, keep)"
MERGED = "e = Mul(d, factor)\n m = Mul(c, e)"
#: the same of x · sigmoid(x) · mask, where there is no other factor
SWISH_APART = "e = Sigmoid(c)\n h = Mul(c, e)\n m = Mul(h, keep)"
SWISH_MERGED = "e = Sigmoid(c)\n h = Mul(keep, e)\n m = Mul(c, h)"


def activated(body: str, keep: np.ndarray, factor: float = 1 / 6) -> onnx.ModelProto:
    """A HardSwish with a mask and a depthwise convolution, to which a branch is added that needs all channels."""
    constants = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": factor, "keep": keep, "factor": keep * factor}
    each = CHANNELS
    return model(
        f"{SIGNATURE} <float[{each},3,1,1] w, float[{each},1,3,3] wd, float[{each}] shift, float[{each},3,1,1] wo,"
        f" float[4,{each},1,1] wp>",
        f"c = Conv(x, w)\n a = Add(c, three)\n d = Clip(a, zero, six)\n{body}\n"
        f"p = Conv<group={CHANNELS}, pads=[1,1,1,1]>(m, wd, shift)\n o = Conv(x, wo)\n"
        "s = Add(p, o)\n r = Relu(s)\n y = Conv(r, wp)",
        constants=constants,
    )


@pytest.mark.parametrize(
    ("apart", "merged", "activation"), [(APART, MERGED, "HardSwish"), (SWISH_APART, SWISH_MERGED, "Sigmoid")]
)
@pytest.mark.parametrize("live", [4, 15])
def test_a_mask_within_an_activation_goes_as_one_behind_it(live: int, apart: str, merged: str, activation: str) -> None:
    keep = mask(*[1] * live, *[0] * (CHANNELS - live))
    expected, found = (compiled(activated(body, keep)) for body in (apart, merged))
    assert operators(found).count(activation) == 1 and "Clip" not in operators(found)
    assert activation == "HardSwish" or operators(found) == operators(expected)
    assert found.report.after.flops == expected.report.after.flops


@pytest.mark.parametrize(("body", "factor"), [(MERGED, 1 / 6), (MERGED, -0.3), (SWISH_MERGED, 1 / 6)])
def test_nothing_else_changes_and_nothing_is_left_of_the_factor(body: str, factor: float) -> None:
    source = activated(body, mask(*[1, 0, 0, 1] * (CHANNELS // 4)), factor)
    assert not left_over(prepared(source))
    exact(source, N=(1, 2))


def test_factors_that_differ_stay_where_they_are() -> None:
    keep = mask(*[1] * 4, *[0] * 12) * random(1, CHANNELS, 1, 1, seed=9)
    result = compiled(activated(MERGED, keep))
    assert "HardSwish" not in operators(result)


def test_weights_keep_the_mask_that_they_can_take() -> None:
    """In a product that is stored whole it would be one more operator."""
    source = model(
        "(float[N,3,8,8] x) => (float[N,16,8,8] y)",
        "a = Conv(x, w)  n = Mul(a, scale)  m = Mul(n, keep)  b = Conv(x, v)  y = Mul(m, b)",
        w=random(CHANNELS, 3, 1, 1, seed=1),
        v=random(CHANNELS, 3, 1, 1, seed=2),
        scale=random(CHANNELS, 1, 1, seed=3),
        keep=mask(*[1, 0] * (CHANNELS // 2)),
    )
    assert operators(compiled(source, adapters="never")) == ["Conv", "Conv", "Mul"]
