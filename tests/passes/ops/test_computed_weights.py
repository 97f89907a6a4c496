"""Convolutions whose weights or places are computed, as those of a network that makes the filters of another."""

import pytest

from passes import shrink
from tests.passes.text import compiled, model

HALF = "{1, 0, 1, 0}"


@pytest.mark.parametrize(("conv", "weights"), [("Conv", "{6, 4, 3, 3}"), ("ConvTranspose", "{4, 6, 3, 3}")])
@pytest.mark.parametrize("bias", ["", ", shift"])
def test_masked_channels_of_data_filters_and_results_go(conv: str, weights: str, bias: str) -> None:
    source = model(
        f"(float[1,3,8,8] x, float[1,5] z) => (float[1,2,8,8] y) <float[4,3,1,1] u, float[4,1,1] keep = {HALF},"
        f" float[5,216] f, int64[4] sizes = {weights}, float[6] shift, float[6,1,1] out = {{1, 1, 0, 0, 0, 1}},"
        " float[2,6,1,1] v>",
        f"a = Conv(x, u) b = Mul(a, keep) g = MatMul(z, f) w = Reshape(g, sizes)"
        f" c = {conv}<pads=[1,1,1,1]>(b, w{bias}) d = Mul(c, out) e = Sigmoid(d) y = Conv(e, v)",
    )
    macs = 64 * 2 * 3 + 5 * 3 * 2 * 9 + 64 * 3 * 2 * 9 + 64 * 2 * 3  # of what is left: two channels, three filters
    assert compiled(source).report.after.macs == macs


@pytest.mark.parametrize("conv", ["Conv", "ConvTranspose"])
def test_masked_channels_go_where_each_has_a_filter(conv: str) -> None:
    """As a tracker correlates an image with a template."""
    source = model(
        f"(float[1,3,8,8] x, float[1,3,3,3] z) => (float[1,2,8,8] y) <float[4,3,1,1] u, float[4,1,1] keep = {HALF},"
        " float[4,3,1,1] f, float[4,1,1] some = {1, 1, 0, 0}, int64[4] sizes = {4, 1, 3, 3}, float[2,4,1,1] v>",
        "a = Conv(x, u) b = Mul(a, keep) g = Conv(z, f) h = Mul(g, some) w = Reshape(h, sizes)"
        f" c = {conv}<group=4, pads=[1,1,1,1]>(b, w) y = Conv(c, v)",
    )
    assert compiled(source).report.after.macs == 64 * 3 + 9 * 3 + 64 * 9 + 64 * 2


@pytest.mark.parametrize("operands", ["b, w, o", "b, w, o, shift, m"])
def test_masked_channels_go_from_convolutions_at_computed_places(operands: str) -> None:
    source = model(
        f"(float[1,3,8,8] x) => (float[1,2,8,8] y) <float[4,3,1,1] u, float[4,1,1] keep = {HALF}, float[18,3,1,1] p,"
        " float[9,3,1,1] q, float[6,4,3,3] w, float[6] shift, float[6,1,1] out = {1, 1, 0, 0, 0, 1}, float[2,6,1,1] v>",
        "a = Conv(x, u) b = Mul(a, keep) o = Conv(x, p) m = Conv(x, q)"
        f" c = DeformConv<pads=[1,1,1,1]>({operands}) d = Mul(c, out) e = Sigmoid(d) y = Conv(e, v)",
        opset=22,
    )
    places = 64 * 3 * (27 if "m" in operands else 18)
    assert compiled(source).report.after.macs == 64 * 2 * 3 + places + 64 * 3 * 2 * 9 + 64 * 2 * 3


def test_nothing_is_known_of_a_bias_whose_size_the_data_decide() -> None:
    source = model(
        f"(float[1,4,8,8] x, float[n] b, bool[n] c, float[6,1,1,1] s) => (float[1,6,6,6] y) <float[6,4,3,3] w,"
        f" float[4,1,1] keep = {HALF}>",
        "a = Mul(x, keep) f = Mul(w, s) bias = Compress<axis=0>(b, c) y = Conv(a, f, bias)",
    )
    assert shrink(source).report.after.macs == 36 * 6 * 2 * 9
