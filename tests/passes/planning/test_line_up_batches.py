"""Channels that differ from one to the next of products with weights of their own, as those of experts."""

import numpy as np
import onnx
import pytest

from tests.passes.text import Array, compiled, model, random, weight

EXPERTS, WIDTH, LEFT = 3, 8, 5


def keep() -> Array:
    """So many other channels of each expert."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(WIDTH) < LEFT for _ in range(EXPERTS)])


FORMS = {
    "mask": """h = MatMul(e, w) b = Add(h, bias) r = Relu(b) m = Mul(r, k)
        s = MatMul(m, v) y = ReduceSum<keepdims = 0>(s, first)""",
    "gated": """h = MatMul(e, wz) i = MatMul(e, w) j = Sigmoid(h) l = Mul(h, j) r = Mul(l, i)
        s = MatMul(r, v) y = ReduceSum<keepdims = 0>(s, first)""",
    "einsum": """h = Einsum<equation = "ne,xef->nxf">(x, w) r = Relu(h) s = Einsum<equation = "nxf,xfo->nxo">(r, vz)
        y = ReduceMean<axes = [1], keepdims = 0>(s)""",
    "over experts": """h = Einsum<equation = "ne,xef->nxf">(x, w) r = Tanh(h)
        y = Einsum<equation = "nxf,xfo->no">(r, vz)""",
    "of three factors": """g = MatMul(x, z) h = Einsum<equation = "ne,xef->nxf">(x, w) r = Relu(h)
        y = Einsum<equation = "nxf,xfo,nx->no">(r, vz, g)""",
    "weights in 8 bits": """d = DequantizeLinear<axis = 2>(q, scale) h = MatMul(e, d) r = Relu(h) m = Mul(r, k)
        s = MatMul(m, v) y = ReduceSum<keepdims = 0>(s, first)""",
}


def network(form: str) -> onnx.ModelProto:
    zeros, w, v = keep().astype(np.float32), random(EXPERTS, 6, WIDTH), random(EXPERTS, WIDTH, 4, seed=1)
    given = {
        "first": np.array([0]),
        "k": zeros[:, None],
        "bias": random(EXPERTS, 1, WIDTH, seed=2),
        "w": w,
        "wz": w[::-1] * zeros[:, None],
        "v": v,
        "z": random(6, EXPERTS, seed=4),
        "vz": v * zeros[:, :, None],
        "q": np.random.default_rng(3).integers(-99, 99, w.shape).astype(np.int8),
        "scale": np.linspace(0.004, 0.02, WIDTH, dtype=np.float32),
    }
    text = f"e = Unsqueeze(x, first) {FORMS[form]}" if "(e, " in FORMS[form] else FORMS[form]
    return model("(float[n,6] x) => (float[n,4] y)", text, constants=given)


@pytest.mark.parametrize("form", FORMS)
def test_each_expert_keeps_its_own_channels(form: str) -> None:
    result = compiled(network(form))
    op = "Einsum" if "Einsum" in FORMS[form] else "MatMul"
    last = -2 if form == "of three factors" else -1  # the gate comes after
    assert weight(result, op, which=last).shape == (EXPERTS, LEFT, 4)
    if form == "weights in 8 bits":
        stored = [t.dims for t in result.model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
        assert [EXPERTS, 6, LEFT] in stored


@pytest.mark.parametrize(
    "between",
    [
        "r = Softmax<axis = -1>(h) m = Mul(r, k)",  # of all channels
        "r = Add(h, shared) m = Mul(r, k)",  # the same numbers for all experts
        "r = Mul(h, k) m = Add(r, beside)",  # one input for all experts
        "r = Mul(h, k) m = Add(r, own)",  # an input for each
        "r = Mul(h, k) t = CumSum(r, two) m = Add(r, t)",
        "m = Mul(h, k) t = MatMul(m, once) y0 = ReduceMax<axes = [0], keepdims = 0>(t)",  # the same for all experts
    ],
)
def test_channels_that_something_tells_apart_stay_where_they_are(between: str) -> None:
    text = f"""e = Unsqueeze(x, first) h = MatMul(e, w) l = MatMul(x, u) beside = Unsqueeze(l, first) {between}
        s = MatMul(m, v) z = ReduceSum<keepdims = 0>(s, first) y = {"Add(z, y0)" if "y0" in between else "Relu(z)"}"""
    given = {"k": keep().astype(np.float32)[:, None], "first": np.array([0]), "two": np.array(2)}
    shapes = {
        "w": (EXPERTS, 6, WIDTH),
        "v": (EXPERTS, WIDTH, 4),
        "u": (6, WIDTH),
        "shared": (WIDTH,),
        "once": (1, WIDTH, 4),
    }
    compiled(model("(float[n,6] x, float[3,n,8] own) => (float[n,4] y)", text, constants=given | shapes))
