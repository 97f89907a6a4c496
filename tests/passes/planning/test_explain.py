"""What counts as masked, and who else writes the channels that a consumer needs."""

import numpy as np
import pytest

from passes import shrink
from tests.passes.text import model, random


def test_through_a_concatenation_and_what_hands_channels_on() -> None:
    """The other operand is made of two products behind an activation; each is named for its own channels."""
    source = model(
        "(float[N,2] x) => (float[N,2] y)"
        " <float[2,6] wa, float[2,2] wb, float[2,4] wc, float[6,2] v, float[6] ma = {0, 1, 0, 0, 1, 1}>",
        "a = MatMul(x, wa)\n am = Mul(a, ma)\n b = MatMul(x, wb)\n c = MatMul(x, wc)\n"
        "j = Concat<axis=1>(b, c)\n r = Relu(j)\n s = Add(am, r)\n y = MatMul(s, v)",
    )
    held = shrink(source).report.held
    assert [(h.channels, h.op, h.written_by) for h in held] == [
        ((0,), "Add", "MatMul -> b"),
        ((2, 3), "Add", "MatMul -> c"),
    ]


def test_an_input_and_a_sum_further_on() -> None:
    """The holder is not the mask's own consumer, and what is live there comes from outside."""
    source = model(
        "(float[N,4] x, float[N,4] side) => (float[N,2] y) <float[4,4] wa, float[4,2] v, float[4] ma = {0, 1, 0, 1}>",
        "a = MatMul(x, wa)\n am = Mul(a, ma)\n r = Relu(am)\n t = Tanh(side)\n s = Add(t, r)\n y = MatMul(s, v)",
    )
    held = shrink(source).report.held
    assert [(h.tensor, h.channels, h.node, h.written_by) for h in held] == [
        ("am", (0, 2), "Add -> s", "the input side")
    ]


@pytest.mark.parametrize("zeros", ["n = Shape(x)\n z = ConstantOfShape(n)", "i = Mul(w, v)\n z = Sin(i)\n"])
def test_zeros_that_are_made_of_constants_and_sizes_are_no_mask(zeros: str) -> None:
    """As the first state of a recurrent network, and a table that is computed: nothing that was trained is masked."""
    w, v = np.zeros((64, 1)), random(1, 4)  # too large together to be folded
    w[1:] = 1
    report = shrink(model("(float[64,4] x) => (float[64,8] y)", f"{zeros}\n y = Concat<axis=1>(x, z)", w=w, v=v)).report
    assert not report.masked and not report.held


def test_a_long_chain_of_sums_ends() -> None:
    steps = 300
    body = "a = MatMul(x, wa)\n am = Mul(a, ma)\n s0 = Add(am, x)\n"
    body += "".join(f"s{i + 1} = Add(s{i}, am)\n" for i in range(steps)) + f"y = MatMul(s{steps}, v)"
    source = model("(float[N,4] x) => (float[N,2] y) <float[4,4] wa, float[4,2] v, float[4] ma = {0, 1, 0, 1}>", body)
    (held,) = shrink(source).report.held
    assert held.channels == (0, 2) and held.written_by
