"""Operators of ONNX Runtime's own domain in double precision, beside its kernels."""

import numpy as np
import pytest

import maskc as api
from tests.double_precision.evaluator import Evaluator, has_double, to_double, widen
from tests.maskc import build
from tests.passes.model.test_contrib_operators import FORMS, model_of, run


@pytest.mark.parametrize("op", ["FusedConv", "FusedGemm", "FusedMatMul"])
def test_they_compute_what_the_kernels_do(op: str) -> None:
    compared = 0
    for seed in range(20):
        form = FORMS[op](np.random.default_rng(seed))
        if form.attrs.get("transBatchA"):  # left out
            continue
        model, feeds = model_of(op, form, 17)
        assert has_double(model)
        (wanted,), (found,) = run(model, feeds), Evaluator(to_double(model))(widen(feeds))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        compared += 1
    assert compared > 5


def test_a_reference_whose_sum_of_equal_numbers_is_off_refuses_nothing() -> None:
    """ONNX Runtime sums one after the other, so the mean of a constant image is not that constant."""
    body = 'a = com.microsoft.FusedConv<activation="Relu">(x, k, b) y = GlobalAveragePool(a)'
    weights = {"k": np.zeros((2, 2, 1, 1)), "b": np.array([0.5553006, 0.1])}
    source = build.model("(float[1,2,64,64] x) => (float[1,2,1,1] y)", body, checked=False, **weights)
    compiled = api.compile(source, verify=False).model
    assert {"GlobalAveragePool"}.isdisjoint(n.op_type for n in compiled.graph.node)
    assert api.verify(source, compiled, samples=2).equivalent
