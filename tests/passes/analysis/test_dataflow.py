"""What is constant, and what is read."""

import numpy as np
import pytest

from passes.analysis.dataflow import analyse
from passes.rewriting.channel_facts import Facts
from passes.sizes.prepare import prepared
from tests.passes.text import mask, model, random


def facts_of(source: object) -> tuple[Facts, dict[str, object]]:
    graph = prepared(source)  # type: ignore[arg-type]
    return analyse(graph), graph.tensors()


def test_a_mask_makes_zeros_and_batch_normalisation_moves_them() -> None:
    facts, tensors = facts_of(
        model(
            "(float[N,3,8,8] x) => (float[N,3,8,8] y) <float[1,3,1,1] m = {1, 0, 0}, float[3] b = {0.5, 0.5, -0.5}, "
            "float[3] s = {1, 1, 1}, float[3] mu = {0, 0, 0}, float[3] var = {1, 1, 1}>",
            "masked = Mul(x, m)\n bn = BatchNormalization(masked, s, b, mu, var)\n y = Relu(bn)",
        )
    )
    masked = facts.known(tensors["masked"], 1)
    assert masked is not None and masked.mask.tolist() == [False, True, True]
    shifted = facts.known(tensors["y"], 1)
    assert shifted is not None and shifted.mask.tolist() == [False, True, True]
    np.testing.assert_allclose(shifted.value[1:], [0.5, 0.0])


def test_zero_filters_leave_the_bias() -> None:
    w = random(3, 2, 3, 3)
    w[1] = 0
    facts, tensors = facts_of(
        model("(float[N,2,8,8] x) => (float[N,3,6,6] y)", "c = Conv(x, w, b)\n y = Exp(c)", w=w, b=np.arange(3.0))
    )
    known = facts.known(tensors["y"], 1)
    assert known is not None and known.mask.tolist() == [False, True, False]
    np.testing.assert_allclose(known.value[1], np.e, rtol=1e-6)


def test_a_constant_is_not_uniform_behind_a_padded_convolution() -> None:
    body = "m = Mul(x, k)\n a = Add(m, one)\n c = Conv<pads=[{p},{p},{p},{p}]>(a, w)\n y = Relu(c)"
    weights = {"k": mask(0, 0), "one": np.ones((1, 1, 1, 1)), "w": random(2, 2, 3, 3)}
    facts, tensors = facts_of(model("(float[N,2,8,8] x) => (float[N,2,8,8] y)", body.format(p=1), **weights))
    known = facts.known(tensors["c"], 1)
    assert known is None or not known.mask.any()
    facts, tensors = facts_of(model("(float[N,2,8,8] x) => (float[N,2,6,6] y)", body.format(p=0), **weights))
    known = facts.known(tensors["c"], 1)
    assert known is not None and known.mask.all()


def test_what_weights_are_zero_for_is_not_read() -> None:
    w = random(4, 3)
    w[2] = 0
    facts, tensors = facts_of(model("(float[N,4] x) => (float[N,3] y)", "h = Relu(x)\n y = MatMul(h, w)", w=w))
    assert facts.live(tensors["h"], 1).tolist() == [True, True, False, True]


@pytest.mark.parametrize("computed", ["l = Log(m)", "l = Div(m, x)"])
def test_what_may_not_be_finite_is_not_a_fact(computed: str) -> None:
    body = f"m = Mul(x, k)\n {computed}\n y = Relu(l)"
    facts, tensors = facts_of(model("(float[N,2] x) => (float[N,2] y)", body, k=mask(1, 0, rank=2)))
    known = facts.known(tensors["l"], 1)
    assert known is None or not known.mask.any()


def test_average_pooling_that_counts_its_padding_keeps_only_zeros() -> None:
    body = (
        "m = Mul(x, k)\n a = Add(m, s)\n"
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad={include}>(a)"
    )
    weights = {"k": mask(0, 0), "s": np.array([0.0, 2.0]).reshape(1, 2, 1, 1)}
    for include, expected in ((0, [True, True]), (1, [True, False])):
        source = model("(float[N,2,6,6] x) => (float[N,2,6,6] y)", body.format(include=include), **weights)
        facts, tensors = facts_of(source)
        known = facts.known(tensors["y"], 1)
        assert known is not None and known.mask.tolist() == expected
