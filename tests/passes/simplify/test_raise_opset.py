"""The opset is raised where every node means the same afterwards."""

import numpy as np
import onnx
import pytest

from passes.model.graph_to_onnx import exported
from passes.simplify.raise_opset import raise_opset
from passes.sizes.prepare import prepared
from tests.generators.check import assert_same_function
from tests.passes.text import model

SIGNATURE = "(float[2,3,4,5] x) => (float[2,3,4,5] y)"
RAISED = {
    "types": (SIGNATURE, "a = Relu(x)\n y = Add(a, x)", 11),
    "Squeeze, Unsqueeze": (SIGNATURE, "a = Unsqueeze<axes=[0]>(x)\n b = Relu(a)\n y = Squeeze<axes=[0]>(b)", 11),
    "Squeeze of all": ("(float[1,3] x) => (float[3] y)", "a = Relu(x)\n y = Squeeze(a)", 11),
    "ReduceSum": ("(float[2,3,4] x) => (float[2,4] y)", "y = ReduceSum<axes=[1], keepdims=0>(x)", 12),
    "Split": ("(float[2,5] x) => (float[2,2] y, float[2,3] z)", "y, z = Split<axis=1, split=[2, 3]>(x)", 12),
    "Softmax": ("(float[2,3] x) => (float[2,3] y)", "y = Softmax(x)", 11),
    "LogSoftmax": ("(float[2,3,4] x) => (float[2,3,4] y)", "y = LogSoftmax<axis=2>(x)", 11),
    "BatchNormalization": (SIGNATURE, "y = BatchNormalization(x, three, three, three, three)", 11),
    "inside an If": (
        "(float[1,3] x, bool c) => (float[3] y)",
        "y = If (c) <then_branch = g1 () => (float[3] a) { a = Squeeze<axes=[0]>(x) }, "
        "else_branch = g2 () => (float[3] b) { d = Relu(x)\n b = Squeeze<axes=[0]>(d) }>",
        11,
    ),
}


REDUCED = "a = ReduceMean<axes=[1]>(x)  b = ReduceMax<axes=[1]>(x)  c = ReduceL2<axes=[1]>(x)  d = Add(a, b)"
RAISED_FURTHER = {
    **RAISED,
    "reductions": ("(float[2,3] x) => (float[2,1] y)", f"{REDUCED}  y = Add(c, d)", 17),
    "Split into equal parts": ("(float[2,4] x) => (float[2,2] y, float[2,2] z)", "y, z = Split<axis=1>(x)", 17),
}
CASES = [*((14, *case) for case in RAISED.values()), *((21, *case) for case in RAISED_FURTHER.values())]


@pytest.mark.parametrize(("to", "signature", "body", "opset"), CASES, ids=[*RAISED, *RAISED_FURTHER])
def test_nodes_are_written_as_the_new_opset_has_them(to: int, signature: str, body: str, opset: int) -> None:
    source = model(signature, body, opset, three=np.array([0.5, 1.0, 2.0]))
    graph = prepared(source)
    assert raise_opset(graph, to)
    result = exported(graph, source)
    assert [said.version for said in result.opset_import] == [to]
    assert result.ir_version >= 7
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(source, result)


LEFT = {
    "a Softmax over inner axes": (SIGNATURE, "y = Softmax<axis=1>(x)", 12),
    "a mode that was dropped": (
        "(float[1,1,4,4] x) => (float[1,1,8,8] y)",
        'y = Resize<mode="linear", coordinate_transformation_mode="tf_half_pixel_for_nn">(x, roi, scales)',
        11,
    ),
    "an old opset": (SIGNATURE, "y = Relu(x)", 10),
}


@pytest.mark.parametrize(("signature", "body", "opset"), LEFT.values(), ids=LEFT)
def test_where_a_node_would_mean_something_else_nothing_is_changed(signature: str, body: str, opset: int) -> None:
    source = model(signature, body, opset, scales=np.array([1.0, 1.0, 2.0, 2.0]), roi=np.array([], np.float32))
    graph = prepared(source)
    before = exported(graph, source).SerializeToString()
    assert not raise_opset(graph, 14)
    assert exported(graph, source).SerializeToString() == before
