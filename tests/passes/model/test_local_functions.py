"""Local functions that import another opset than the model."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from passes import shrink
from passes.model.local_functions import inline


def calling(opset: int, own: int, body: str, more: str = "") -> onnx.ModelProto:
    """A product, a local function F of its own opset that keeps the shape, a mask and another product."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}, "local": 1]>
        g (float[N,4] x) => (float[N,3] y) <float[4,6] u = {{{", ".join(map(str, np.arange(24) % 7 - 3.0))}}},
            float[6] k = {{1, 0, 1, 1, 0, 1}}, float[6,3] v = {{{", ".join(map(str, np.arange(18) % 5 - 2.0))}}}>
        {{ a = MatMul(x, u) f = local.F(a) m = Mul(f, k) y = MatMul(m, v) }}
        <opset_import: ["": {own}, "local": 1], domain: "local">
        F (a) => (r) {{ {body} }} {more}"""
    )


INNER = '<opset_import: ["": 16], domain: "local"> G (b) => (s) { s = Relu(b) }'
BODIES = {
    "a constant": "c = Constant <value = float {0.5}> () b = Mul(a, c) r = Relu(b)",
    "a branch": "q = Constant <value = bool {1}> () r = If (q) <then_branch = t () => (float[N,6] s) { s = Relu(a) }, "
    "else_branch = e () => (float[N,6] o) { o = Neg(a) }>",
    "the last axis": "r = Softmax <axis = -1> (a)",
    "a function": "b = Neg(a) r = local.G(b)",
}


@pytest.mark.parametrize(("opset", "own"), [(18, 17), (17, 18), (18, 12), (12, 18), (21, 13)])
@pytest.mark.parametrize("body", BODIES)
def test_nodes_that_mean_the_same_in_both(body: str, opset: int, own: int) -> None:
    source = calling(opset, own, BODIES[body], INNER)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    result = shrink(source)
    assert not result.model.functions and result.report.after.macs < result.report.before.macs
    before, after = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (source, result.model)
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_nodes_that_only_their_own_opset_has_are_converted() -> None:
    """ONNX Runtime refuses them: by the standard they mean what they say."""
    inside = inline(calling(18, 12, "s = ReduceSum <axes = [1], keepdims = 1> (a) r = Sub(a, s)"))
    x = np.ones((2, 4), np.float32)
    (y,) = ort.InferenceSession(inside.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    product = x @ (np.arange(24).reshape(4, 6) % 7 - 3)
    masked = (product - product.sum(axis=1, keepdims=True)) * [1, 0, 1, 1, 0, 1]
    np.testing.assert_allclose(y, masked @ (np.arange(18).reshape(6, 3) % 5 - 2), rtol=1e-5)


def test_nodes_that_mean_two_things_are_refused() -> None:
    """ONNX Runtime takes them by the opset of the model, the standard by that of the function."""
    with pytest.raises(ValueError, match=r"`F` imports opset 12, in which its node .*Softmax"):
        inline(calling(18, 12, "r = Softmax <axis = 0> (a)"))
