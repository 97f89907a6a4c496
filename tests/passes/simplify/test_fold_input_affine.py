"""Scales and shifts that the contractions behind them take into their weights."""

from pathlib import Path

import numpy as np
import pytest

from passes import shrink
from tests.maskc.build import run
from tests.passes.text import compiled, loaded, model, operators, random

AFFINE = {"s": random(4, 1, 1, seed=5), "t": random(4, 1, 1, seed=6)}


CASES = {
    **{
        f"behind an activation, before a convolution of {group} groups": (
            f"(float[N,3,8,8] x) => (float[N,8,8,8] y) <float[4,3,1,1] w, float[8] b, float[8,{4 // group},1,1] v>",
            f"c = Conv(x, w)\n r = Sigmoid(c)\n m = Mul(r, s)\n a = Add(m, t)\n y = Conv<group={group}>(a, v, b)",
            "Conv Sigmoid Conv",
        )
        for group in (1, 2, 4)
    },
    "a padded convolution takes the scale only": (
        "(float[N,3,8,8] x) => (float[N,2,8,8] y, float[N,2,8,8] z)"
        " <float[4,3,1,1] w, float[2,4,3,3] v, float[2,4,3,3] u>",
        "c = Conv(x, w)\n r = Relu(c)\n m = Mul(r, s)\n y = Conv<pads=[1,1,1,1]>(m, v)\n"
        "q = Sigmoid(c)\n n = Add(q, t)\n z = Conv<pads=[1,1,1,1]>(n, u)",
        "Conv Relu Conv Sigmoid Add Conv",
    ),
    "all who read it must take it": (
        "(float[N,3,8,8] x) => (float[N,2,8,8] y, float[N,4,8,8] z) <float[4,3,1,1] w, float[2,4,1,1] v>",
        "c = Conv(x, w)\n r = Sigmoid(c)\n m = Mul(r, s)\n y = Conv(m, v)\n z = Tanh(m)",
        "Conv Sigmoid Mul Conv Tanh",
    ),
    "products of matrices take a scale and, with a bias, a shift": (
        "(float[N,3] x) => (float[N,2] y)"
        " <float[3,4] w, float[4,4] v, float[2,4] u, float[2] b, float[4] s, float[4] t>",
        "h = MatMul(x, w)\n r = Sigmoid(h)\n m = Mul(r, s)\n g = MatMul(m, v)\n q = Tanh(g)\n n = Mul(q, s)\n"
        "a = Add(n, t)\n y = Gemm<transB=1>(a, u, b)",
        "MatMul Sigmoid MatMul Tanh Gemm",
    ),
    "along another axis": (
        "(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[4,3,1,1] w, float[2,4,1,1] v, float[4] columns>",
        "c = Conv(x, w)\n r = Sigmoid(c)\n m = Mul(r, columns)\n y = Conv(m, v)",
        "Conv Sigmoid Mul Conv",
    ),
    "a BatchNormalization before it takes both, through a Reshape": (
        "(float[N,5,3] x) => (float[N,5,4] y)"
        " <float[3,4] w, float[4] g, float[4] b, float[4] mean, float[4] variance = {1, 2, 3, 4}, float[4] k,"
        " float[4] l, int64[3] sizes = {-1, 5, 4}>",
        "h = MatMul(x, w)\n f = Flatten<axis=2>(h)\n n = BatchNormalization(f, g, b, mean, variance)\n"
        "r = Reshape(n, sizes)\n m = Mul(r, k)\n a = Add(m, l)\n y = Sigmoid(a)",
        "MatMul Flatten BatchNormalization Reshape Sigmoid",
    ),
    "a shift that would drown the data": (
        "(float[N,4,8,8] x) => (float[N,2,8,8] y) <float far = {-1e6}, float[2,4,1,1] v>",
        "m = Add(x, far)\n y = Conv(m, v)",
        "Add Conv",
    ),
    "a shift of fewer elements than a bias is added to": (
        "(float[N,1,8,8] x) => (float[N,4,8,8] y) <float half = {0.5}, float[4,1,1,1] v>",
        "a = Add(x, half)\n y = Conv(a, v)",
        "Add Conv",
    ),
    "masked channels go first": (
        "(float[N,3,8,8] x) => (float[N,2,8,8] y)"
        " <float[4,3,1,1] w, float[2,4,1,1] v, float[1,4,1,1] open = {1, 0, 1, 0}>",
        "c = Conv(x, w)\n k = Mul(c, open)\n r = Sigmoid(k)\n m = Mul(r, s)\n a = Add(m, t)\n y = Conv(a, v)",
        "Conv Sigmoid Conv",
    ),
}


@pytest.mark.parametrize(("signature", "body", "expected"), CASES.values(), ids=CASES)
def test_what_goes_into_weights(signature: str, body: str, expected: str) -> None:
    source = model(signature, body, constants=AFFINE)
    assert operators(compiled(source)) == expected.split()


def test_a_scale_of_data_that_may_be_broadcast_stays() -> None:
    """The data may have one column, which the scale repeats."""
    source = model("(float[N,C] x) => (float[N,2] y)", "m = Mul(x, s)\n y = MatMul(m, w)", s=random(4), w=random(4, 2))
    made = shrink(source).model
    for columns in (1, 4):
        x = random(3, columns)
        np.testing.assert_allclose(run(made, x=x)["y"], run(source, x=x)["y"], rtol=1e-5)


def spelled_norm(centred: bool) -> str:
    mean = "mu = ReduceMean<axes=[-1], keepdims=1>(h) c = Sub(h, mu)" if centred else "c = Identity(h)"
    ends = "n = Add(m, b)" if centred else "n = Identity(m)"
    return (
        f"{mean} q = Pow(c, two) v = ReduceMean<axes=[-1], keepdims=1>(q) u = Add(v, eps) s = Sqrt(u) z = Div(c, s)"
        f" m = Mul(z, g) {ends}"
    )


@pytest.mark.parametrize("centred", [True, False])
def test_a_normalisation_that_is_spelled_out_keeps_its_scale_and_shift(centred: bool, tmp_path: Path) -> None:
    """ONNX Runtime makes one operator of all; without scale and shift each would go over the data."""
    source = model(
        "(float[N,8] x) => (float[N,3] y)"
        " <float[8,6] w, float[6,3] k, float[3] t, float[6] g, float two = {2}, float eps = {1e-05}>",
        f"h = Gemm(x, w) {spelled_norm(centred)} y = Gemm(n, k, t)",
        **({"b": random(6, seed=4)} if centred else {}),
    )
    norm = "LayerNormalization" if centred else "SimplifiedLayerNormalization"
    assert loaded(compiled(source).model, tmp_path) == ["Gemm", norm, "Gemm"]


def test_an_addend_of_unknown_rank_leaves_a_shift_before_the_product_alone() -> None:
    source = model(
        "(float[N,4] x, float[N,2] z) => (float[N,2] y) <float[4] t, float[4,2] v>",
        "a = Add(x, t)\n b = own.Any(z)\n y = Gemm(a, v, b)",
        checked=False,
    )
    assert operators(shrink(source)) == ["Add", "Any", "Gemm"]
