"""The layers of a report: what each writes and costs, before and after."""

from __future__ import annotations

import onnx
import pytest

import maskc
import passes
from maskc.report.layers import Layer, layers
from passes.report import Cost, NodeCost
from tests.maskc import build


def test_the_layers_of_a_masked_perceptron() -> None:
    report = maskc.compile(build.mlp()).report
    assert report.layers == (
        Layer("first", "MatMul", 16, 8, 16 * 15, 8 * 15),
        Layer("second", "MatMul", 4, 4, 4 * 31, 4 * 15),
    )
    assert report.to_json()["layers"][0]["width_after"] == 8
    assert report.masked[0].channels == (1, 3, 5, 7, 9, 11, 13, 15)


def test_layers_that_only_one_side_has() -> None:
    before = Cost(0, 0, 0, (NodeCost("a", "Conv", 10, 5, 4), NodeCost("relu", "Relu", 3, 0)))
    after = Cost(0, 0, 0, (NodeCost("b", "MatMul", 7, 3, None),))
    assert layers(before, after) == (Layer("a", "Conv", 4, None, 10, 0), Layer("b", "MatMul", None, None, 0, 7))


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("y = Conv <kernel_shape = [1, 1]> (x, w)", 6),
        ("y = ConvTranspose <kernel_shape = [1, 1]> (x, t)", 6),
        ("y = MatMul(x, m)", 7),
        ('y = Einsum <equation = "nchw,wk->nchk"> (x, m)', 7),
        ("f = Flatten(x)\n y = Gemm(f, g)", 9),
    ],
)
def test_the_width_is_counted_along_the_channels(text: str, width: int) -> None:
    weights = {"w": (6, 3, 1, 1), "t": (3, 6, 1, 1), "m": (5, 7), "g": (3 * 4 * 5, 9)}
    rank = "N,C" if "Gemm" in text else "N,A,B,C"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[N,3,4,5] x) => (float[{rank}] y) {{ {text} }}'
    )
    model.graph.initializer.extend(build.weight(name, *shape) for name, shape in weights.items() if f" {name})" in text)
    (node,) = (node for node in passes.count(model).nodes if node.macs)
    assert node.width == width


def test_the_width_of_a_recurrent_layer_is_its_units() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[T,N,3] x) => (float[T,D,N,H] y) '
        "{ y = LSTM <hidden_size = 5> (x, w, r) }"
    )
    model.graph.initializer.extend([build.weight("w", 1, 20, 3), build.weight("r", 1, 20, 5)])
    (node,) = passes.count(model).nodes
    assert node.width == 5
