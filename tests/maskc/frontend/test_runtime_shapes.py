"""Operators that only ONNX Runtime knows: it says what shapes they write."""

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.frontend import Source, read
from maskc.frontend.input_sizes import fixed
from passes.abstract_values import kept_reasons
from passes.model.declarations import dims_of
from tests.maskc import build


def expanded() -> onnx.ModelProto:
    """x[n,4] → one more axis, by an operator of ONNX Runtime; product, mask over every second channel, product."""
    body = "e = com.microsoft.ExpandDims(x, axis)\n p = MatMul(e, v)\n m = Mul(p, mask)\n y = MatMul(m, w)"
    weights = {"axis": np.array(1, np.int32), "v": (4, 8), "mask": np.array([1.0, 0] * 4), "w": (8, 3)}
    return build.model("(float[n,4] x) => (float[n,1,3] y)", body, checked=False, **weights)


def distances() -> onnx.ModelProto:
    """x[n,4] → distances to 8 points, a mask over every second one, product → y[n,3]; of these nobody tells a shape."""
    body = 'd = com.microsoft.CDist<metric="euclidean">(x, points)\n m = Mul(d, mask)\n y = Gemm(m, w)'
    weights = {"points": (8, 4), "mask": np.array([1.0, 0] * 4), "w": (8, 3)}
    return build.model("(float[n,4] x) => (float[n,3] y)", body, checked=False, **weights)


def of(source: Source) -> dict[str, object]:
    return {value.name: dims_of(value) for value in source.model.graph.value_info}


def test_what_an_operator_of_the_runtime_writes() -> None:
    model = expanded()
    before = model.SerializeToString(deterministic=True)
    source = read(model)
    assert of(source) == {"e": ["n", 1, 4]}
    assert of(fixed(source, {"x": (5, 4)})) == {"e": [5, 1, 4]}
    assert model.SerializeToString(deterministic=True) == before


def test_notes_on_it_are_not_believed() -> None:
    model = expanded()
    model.graph.value_info.append(build.value("e", ["n", 17]))
    assert of(read(model)) == {"e": ["n", 1, 4]}


@pytest.mark.parametrize("shapes", [None, {"x": (5, 4)}])
def test_a_mask_after_it(shapes: dict[str, tuple[int, ...]] | None) -> None:
    compiled = api.compile(expanded(), shapes=shapes, verify=True)
    (masked,) = compiled.report.masked
    assert masked.total == 8 and masked.masked == masked.removed == 4
    last = compiled.model.graph.node[-1]
    (weight,) = (tensor for tensor in compiled.model.graph.initializer if tensor.name == last.input[1])
    assert list(weight.dims) == [4, 3]


@pytest.mark.parametrize("last", ["Gemm", "MatMul"])
def test_a_mask_in_a_tensor_of_which_nobody_tells_the_shape_is_explained(last: str) -> None:
    model = distances()
    model.graph.node[2].op_type = last
    report = api.compile(model, verify=True).report
    (masked,), (held,) = report.masked, report.held
    assert (masked.tensor, masked.total, masked.channels, masked.removed) == ("m", 8, (1, 3, 5, 7), 0)
    assert masked.axis == held.axis == (1 if last == "Gemm" else -1)
    assert held.channels == masked.channels and "unknown shape" in held.reason and held.code == "K403"
    (tried,) = api.explain(model).held
    assert tried.advice == "" and "`--shape`" in kept_reasons.UNKNOWN_SHAPE.action


def test_an_operator_that_it_does_not_know_either() -> None:
    model = expanded()
    model.graph.node[0].domain = model.opset_import[1].domain = "com.example"
    source = read(model)
    assert source.model.graph.node[0].domain == "com.example" and not source.model.graph.value_info
    assert np.isfinite(api.compile(model).report.after.flops)
