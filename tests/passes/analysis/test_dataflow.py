"""What is constant, and what is read."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.analysis.dataflow import analyse
from passes.rewriting.channel_facts import Facts
from passes.sizes.prepare import prepared
from tests.passes.text import Array, mask, model, random


def facts_of(source: onnx.ModelProto) -> tuple[Facts, dict[str, gs.Tensor]]:
    graph = prepared(source)
    return analyse(graph), graph.tensors()


def known(source: onnx.ModelProto, tensor: str) -> tuple[list[bool], Array]:
    """Which channels of a tensor are constant, and their values."""
    facts, tensors = facts_of(source)
    found = facts.constant_slices(tensors[tensor], 1)
    return found.mask.tolist(), found.value[found.mask]


def test_a_mask_makes_zeros_and_batch_normalisation_moves_them() -> None:
    source = model(
        "(float[N,3,8,8] x) => (float[N,3,8,8] y) <float[1,3,1,1] m = {1, 0, 0}, float[3] b = {0.5, 0.5, -0.5}, "
        "float[3] s = {1, 1, 1}, float[3] mu = {0, 0, 0}, float[3] var = {1, 1, 1}>",
        "masked = Mul(x, m)\n bn = BatchNormalization(masked, s, b, mu, var)\n y = Relu(bn)",
    )
    assert known(source, "masked")[0] == [False, True, True]
    found, values = known(source, "y")
    assert found == [False, True, True]
    np.testing.assert_allclose(values, [0.5, 0.0])


def test_zero_filters_leave_the_bias() -> None:
    w = random(3, 2, 3, 3)
    w[1] = 0
    source = model("(float[N,2,8,8] x) => (float[N,3,6,6] y)", "c = Conv(x, w, b)\n y = Exp(c)", w=w, b=np.arange(3.0))
    found, values = known(source, "y")
    assert found == [False, True, False]
    np.testing.assert_allclose(values, [np.e], rtol=1e-6)


@pytest.mark.parametrize(("pad", "size", "expected"), [(1, 8, False), (0, 6, True)])
def test_a_constant_is_not_uniform_behind_a_padded_convolution(pad: int, size: int, expected: bool) -> None:
    source = model(
        f"(float[N,2,8,8] x) => (float[N,2,{size},{size}] y) <float[2,2,3,3] w, float[1,1,1,1] one = {{1}}>",
        f"m = Mul(x, k)\n a = Add(m, one)\n c = Conv<pads={[pad] * 4}>(a, w)\n y = Relu(c)",
        k=mask(0, 0),
    )
    assert known(source, "c")[0] == [expected] * 2


def test_what_weights_are_zero_for_is_not_read() -> None:
    w = random(4, 3)
    w[2] = 0
    facts, tensors = facts_of(model("(float[N,4] x) => (float[N,3] y)", "h = Relu(x)\n y = MatMul(h, w)", w=w))
    assert facts.live(tensors["h"], 1).tolist() == [True, True, False, True]


@pytest.mark.parametrize("computed", ["l = Log(m)", "l = Div(m, x)"])
def test_what_may_not_be_finite_is_not_a_fact(computed: str) -> None:
    body = f"m = Mul(x, k)\n {computed}\n y = Relu(l)"
    assert not any(known(model("(float[N,2] x) => (float[N,2] y)", body, k=mask(1, 0, rank=2)), "l")[0])


@pytest.mark.parametrize(("include", "expected"), [(0, [True, True]), (1, [True, False])])
def test_average_pooling_that_counts_its_padding_keeps_only_zeros(include: int, expected: list[bool]) -> None:
    source = model(
        "(float[N,2,6,6] x) => (float[N,2,6,6] y) <float[1,2,1,1] s = {0, 2}>",
        "m = Mul(x, k)\n a = Add(m, s)\n"
        f"y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad={include}>(a)",
        k=mask(0, 0),
    )
    assert known(source, "y")[0] == expected
