"""Constant maps that are made at run time, where sizes are open."""

import itertools

import numpy as np
import onnx
import pytest

from passes import shrink
from passes.abstract_values.polynomial import Polynomial, maximum, minimum, rest
from passes.adapters.insertion import Adapters
from passes.graph.editor import GraphEditor
from passes.model.graph_to_onnx import exported
from passes.sizes.prepare import checked
from tests.generators.check import assert_same_function
from tests.generators.running import Runner
from tests.passes.text import compiled, exact, model, random

SYMBOLS = {"H": (1, 2, 3, 7, 12), "W": (1, 2, 5, 8, 13)}


def windows(depth: int, height: str = "H", *, stride: int = 1, width: str = "W") -> onnx.ModelProto:
    """Channels that are masked before a bias are constants, and uneven after borders that are padded."""
    names = ["a", *(f"d{number}" for number in range(depth))]
    layers = [
        f"{after} = Conv<group=40, pads=[1,1,1,1], strides=[{stride},{stride}]>({before}, v)"
        for before, after in itertools.pairwise(names)
    ]
    return model(
        f"(float[1,3,{height},{width}] x) => (float[1,4,Y,X] y)"
        " <float[40,3,1,1] w, float[40,1,3,3] v, float[4,40,1,1] z>",
        f"c = Conv(x, w) m = Mul(c, k) a = Add(m, b) {' '.join(layers)} r = Relu({names[-1]}) y = Conv(r, z)",
        k=(np.arange(40) < 4).astype(np.float32).reshape(40, 1, 1),
        b=random(40, 1, 1, seed=1) + 2,
    )


def map_nodes(result: onnx.ModelProto) -> list[str]:
    """What makes maps of their distinct rows, with the axes along which they are picked."""
    stored = {t.name for t in result.graph.initializer if len(t.dims) == 4}
    found = []
    for node in result.graph.node:
        if node.op_type in ("Gather", "Transpose") and node.input[0] in stored:
            stored.update(node.output)
            found += [f"{node.op_type} {a.i}" if a.name == "axis" else node.op_type for a in node.attribute]
    return found


FEW = ["Gather 0", "Transpose", "Gather 2"]
MANY = ["Gather 1", "Gather 2", "Transpose"]


@pytest.mark.parametrize("target", ["any", "openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (windows(1), FEW),
        (windows(1, stride=2), FEW),
        (windows(2), MANY),
        (windows(2, stride=2), MANY),
        (windows(2, "7"), FEW),
        (windows(2, "3"), ["Gather 2", "Transpose"]),  # each row is another one
        (windows(2, width="9"), ["Gather 3", "Gather 2"]),  # which columns is known beforehand
    ],
)
def test_maps_are_stored_so_that_what_is_picked_lies_together(
    source: onnx.ModelProto, expected: list[str], target: str
) -> None:
    result = shrink(source, target=target).model
    assert_same_function(source, result, symbols=SYMBOLS)
    assert map_nodes(result) == expected


def test_a_size_that_only_a_tensor_had_that_is_gone_is_computed() -> None:
    """All is constant up to the last convolution, so that the map before it is made of sizes alone."""
    source = model(
        "(float[N,3,T] x) => (float[N,4,t] y) <float[4,3,1] wa, float[8,4,3] wb, float[4,8,3] wc>",
        """a = Conv(x, wa) m = Mul(a, none) b = Add(m, shift) r = Resize(b, , doubled)
            c = Conv<pads=[1,1], strides=[2]>(r, wb) d = Relu(c) y = Conv<pads=[1,1]>(d, wc)""",
        17,
        doubled=np.array([1.0, 1.0, 2.0]),
        none=np.zeros((1, 4, 1)),
        shift=random(4, 1),
    )
    exact(source, N=(1, 2), T=(3, 6))


def test_a_constant_that_a_gemm_adds_to_each_row_needs_no_rows() -> None:
    """As of the distances from the centres of a KMeans of scikit-learn, whose third operand is multiplied by zero."""
    source = model(
        "(float[N,6] x) => (float[N,3] y) <float[3,6] w>",
        "s = ReduceSumSquare<axes=[1]>(x)  c = Mul(s, none)  g = Gemm<alpha=-2.0, transB=1>(x, w, c)  y = Add(s, g)",
        17,
        none=np.zeros(1),
    )
    assert [n.op_type for n in compiled(source).model.graph.node] == ["ReduceSumSquare", "Gemm", "Add"]


N, T = map(Polynomial.of, ("N", "T"))
THREE = Polynomial.of(3)


@pytest.mark.parametrize("size", [N * T + THREE, T - rest(-T, THREE) + THREE, maximum(T - THREE, minimum(N, THREE))])
def test_any_formula_is_computed(size: Polynomial) -> None:
    source = model("(float[N,T] x) => (float[n,t] y)", "y = Relu(x)", 17)
    graph = checked(source)
    (output,), editor = graph.outputs, GraphEditor(graph)
    wanted, fill = {0: np.ones(4, bool)}, np.arange(4, dtype=np.float32)
    graph.outputs[0] = made = Adapters(editor).create(output, (4, size.dim), 0, wanted, fill, broadcast=False)
    output.name, made.name = "inner", "y"
    editor.finish()
    (found,) = Runner(exported(graph, source))({"x": np.zeros((2, 7), np.float32)})
    assert found.shape == (4, size.at({"N": 2, "T": 7}))
