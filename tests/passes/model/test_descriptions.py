"""What a model says of its parts stays, with masks and without, of nodes that are merged and weights that are cut."""

from typing import Any

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.passes.text import model, random


def described(masked: bool) -> onnx.ModelProto:
    """Products with a scale that goes into the weights, a mask, and a branch, each part with a text and a key."""
    source = model(
        "(float[N,4] x, bool q) => (float[N,3] y) <float[6] s = {2, 3, 4, 5, 6, 7}>",
        """g = If(q) <then_branch = t () => (float[N,4] i) { i = Tanh(x) },
                      else_branch = e () => (float[N,4] o) { o = Neg(x) }>
        [first] a = MatMul(g, u) b = Mul(a, s) [second] r = Relu(b) m = Mul(r, k) y = MatMul(m, v)""",
        opset=21,
        ir=10,
        u=random(4, 6),
        v=random(6, 3),
        k=np.array([1, 0, 1, 1, 0, 1] if masked else [1] * 6, np.float32),
    )
    source.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in [("g", 4), ("r", 6)]
    )
    branches = [a.g for node in source.graph.node for a in node.attribute if a.name.endswith("branch")]
    nodes = [*source.graph.node, *(node for branch in branches for node in branch.node)]
    parts: list[Any] = [*nodes, *source.graph.initializer, *source.graph.value_info, source.graph, *branches, source]
    for number, part in enumerate(parts):
        part.doc_string = f"text {number} of {part.name if hasattr(part, 'name') else ''}."
        part.metadata_props.add(key="pkg.onnx.layer", value=f"layer {number}")
        part.metadata_props.add(key=f"key {number}", value="")
    note = source.graph.quantization_annotation.add(tensor_name="r")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="step")
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "step"))
    return source


@pytest.mark.parametrize("masked", [False, True])
def test_texts_and_metadata_stay(masked: bool) -> None:
    source = described(masked)
    result = shrink(source).model
    onnx.checker.check_model(result, full_check=True)
    left = {name: node for node in result.graph.node for name in node.output}
    said = {name: node for node in source.graph.node for name in node.output}
    assert left["b"].op_type == "MatMul"  # the scale is in its weights
    assert said["a"].doc_string in left["b"].doc_string and said["b"].doc_string in left["b"].doc_string
    assert {e.key for e in left["b"].metadata_props} >= {e.key for n in "ab" for e in said[n].metadata_props}
    for part, was in [*((left[name], said[name]) for name in "gry"), (result.graph, source.graph)]:
        assert part.doc_string == was.doc_string and list(part.metadata_props) == list(was.metadata_props)
    (branch, *_), (before, *_) = ([a.g for a in n.attribute] for n in (left["g"], said["g"]))
    assert branch.doc_string == before.doc_string and branch.metadata_props == before.metadata_props
    assert branch.node[-1].metadata_props == before.node[-1].metadata_props
    tensors = {t.name: t for t in result.graph.initializer}
    for tensor in source.graph.initializer:
        if tensor.name in "uv":
            assert tensors[tensor.name].doc_string == tensor.doc_string
            assert list(tensors[tensor.name].metadata_props) == list(tensor.metadata_props)
            assert list(tensors[tensor.name].dims) != list(tensor.dims) or not masked
    values = {v.name: v for v in result.graph.value_info}
    assert {v.name: v.doc_string for v in source.graph.value_info} == {n: v.doc_string for n, v in values.items()}
    assert result.graph.quantization_annotation == source.graph.quantization_annotation
    assert onnx.numpy_helper.to_array(tensors["step"]) == 0.5
