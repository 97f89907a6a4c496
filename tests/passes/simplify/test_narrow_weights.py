"""Weights that the source stores in fewer bits, and casts, are stored in as few."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import passes
from tests.maskc import build
from tests.passes.text import model


def cast_weights(dtype: Any, masked: bool) -> onnx.ModelProto:
    """x[n,200] → MatMul, Relu, MatMul → y[n,200], with weights of another type behind Casts."""
    rng = np.random.default_rng(0)
    first, second = (rng.integers(-8, 9, size=(200, 600)).astype(dtype) for _ in range(2))
    if masked:
        first[:, ::2] = 0
    body = "f1 = Cast<to=1>(w1) a = MatMul(x, f1) b = Relu(a) f2 = Cast<to=1>(w2) y = MatMul(b, f2)"
    return model("(float[n,200] x) => (float[n,200] y)", body, 19, ir=9, w1=first, w2=second.T.copy())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8])
def test_the_file_is_not_larger(dtype: Any, masked: bool) -> None:
    source = cast_weights(dtype, masked)
    compiled = passes.shrink(source).model
    assert compiled.ByteSize() < source.ByteSize() * (0.52 if masked else 1.0) + 1000
    assert passes.count(compiled).flops <= passes.count(source).flops * (0.52 if masked else 1)
    x = np.random.default_rng(1).normal(size=(3, 200)).astype(np.float32)
    before, after = (build.run(m, x=x)["y"] for m in (source, compiled))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    again = passes.shrink(compiled).model
    assert again.ByteSize() <= compiled.ByteSize() + 100


def test_what_is_not_the_same_in_fewer_bits_stays() -> None:
    source = cast_weights(np.float16, masked=False)
    odd = np.random.default_rng(2).normal(size=(200, 200)).astype(np.float32)
    source.graph.node[-1].output[0] = "z"
    source.graph.node.append(onnx.helper.make_node("MatMul", ["z", "odd"], ["y"]))
    source.graph.initializer.append(numpy_helper.from_array(odd, "odd"))
    kinds = {t.name: t.data_type for t in passes.shrink(source).model.graph.initializer}
    assert kinds["odd"] == TensorProto.FLOAT and sorted(kinds.values()) == [1, 10, 10]
