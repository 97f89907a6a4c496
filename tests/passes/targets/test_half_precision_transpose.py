"""Products in half precision that a mask kept apart from a Transpose."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.double_precision.evaluator import Evaluator
from tests.generators.check import assert_same_function
from tests.generators.form import assert_well_formed
from tests.passes.text import Array, model, random

LOAD = (
    "import sys, onnxruntime\n"
    "onnxruntime.InferenceSession(sys.stdin.buffer.read(), providers=['CPUExecutionProvider'])\n"
)


def loads(compiled: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime lives through it, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", LOAD], input=compiled.SerializeToString(), capture_output=True)
    return done.returncode == 0


def half(*shape: int) -> Array:
    return random(*shape).astype(np.float16)


def time_major(body: str, **more: Array) -> onnx.ModelProto:
    """Steps first, then masked, turned to have the batch first, and projected."""
    masked = np.array([1, 0, 1, 1], np.float16)
    return model(
        "(float16[T,N,3] x) => (float16[N,T,2] y)",
        f"h = MatMul(x, u)\n t = Tanh(h)\n {body}",
        u=half(3, 4),
        k=masked,
        **more,
    )


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("m = Mul(t, k)\n r = Transpose<perm=[1,0,2]>(m)\n y = MatMul(r, w)", {"w": half(4, 2)}),
        ("r = Transpose<perm=[1,0,2]>(t)\n m = Mul(r, k)\n y = MatMul(m, w)", {"w": half(4, 2)}),
        (
            "r = Transpose<perm=[1,0,2]>(t)\n m = Mul(r, k)\n a = MatMul(m, w)\n b = Mul(a, one)\n y = MatMul(b, v)",
            {"w": half(4, 5), "v": half(5, 2), "one": np.ones(5, np.float16)},
        ),
    ],
    ids=["mask before", "mask behind", "two products"],
)
def test_the_product_comes_first(body: str, more: dict[str, Array]) -> None:
    source = time_major(body, **more)
    result = shrink(source).model
    found = [node.op_type for node in result.graph.node]
    assert found[-1] == "Transpose" and found.count("Transpose") == 1
    assert loads(result)
    assert_same_function(source, result, run=Evaluator, rtol=2e-2)
    assert_well_formed(source, result)
