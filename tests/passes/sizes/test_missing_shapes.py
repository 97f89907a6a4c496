"""Shapes that onnx does not infer, and masks in tensors of such shapes."""

import numpy as np
import pytest

from passes import shrink
from passes.errors import GraphError
from passes.sizes.prepare import prepared
from tests.passes.text import compiled, exact, model, operators, random

# A text recogniser: columns of the image become steps, which a product classifies, one row for each step and example.
STEPS = """
    c = Conv<pads=[1,1,1,1]> (x, w)
    t = Transpose<perm=[3,0,1,2]> (c)
    s = Reshape (t, joined)
    sizes = Shape (s)
    steps = Gather<axis=0> (sizes, zero)
    batch = Gather<axis=0> (sizes, one)
    width = Gather<axis=0> (sizes, two)
    rows = Mul (steps, batch)
    rows1 = Unsqueeze (rows, first)
    width1 = Unsqueeze (width, first)
    flat = Concat<axis=0> (rows1, width1)
    r = Reshape (s, flat)
    g = Gemm (r, v, b)
    m = Mul (g, keep)
    steps1 = Unsqueeze (steps, first)
    batch1 = Unsqueeze (batch, first)
    back = Concat<axis=0> (steps1, batch1, classes)
    y = Reshape (m, back)
"""
CLASSES = 60
WEIGHTS = {
    "w": random(128, 1, 3, 3),
    "joined": np.array([0, 0, 512]),
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "first": np.array([0]),
    "v": random(512, CLASSES, seed=1) / 16,
    "b": random(CLASSES, seed=2),
    "keep": (np.arange(CLASSES) < CLASSES // 3).astype(np.float32),
    "classes": np.array([CLASSES]),
}


@pytest.mark.parametrize("batch", ["1", "N"])
def test_a_mask_after_a_product_of_sizes(batch: str) -> None:
    """Two of three classes are masked: their columns of the last weight go."""
    source = model(f"(float[{batch},1,4,W] x) => (float[steps,{batch},{CLASSES}] y)", STEPS, **WEIGHTS)
    shapes = {t.name: t.shape for n in prepared(source).nodes for t in n.outputs}
    assert len(shapes["g"]) == 2 and shapes["g"][1] == CLASSES and shapes["y"][2] == CLASSES
    result = compiled(source)
    (found,) = (axis for axis in result.report.masked if axis.total == CLASSES)
    assert found.masked == found.removed == 40
    assert result.report.before.params - result.report.after.params > 40 * 512
    exact(source, W=(3, 7), **({} if batch == "1" else {"N": (1, 2)}))


@pytest.mark.parametrize("opset", [11, 13])
def test_a_mask_after_a_computed_expand(opset: int) -> None:
    """Its rank is that of the vector, though one element is a sum of sizes that is not known."""
    summed = "<axes=[0], keepdims=0> (k)" if opset < 13 else "<keepdims=0> (k, first)"
    body = f"""
        a = MatMul (x, w)
        p = Shape (x)
        n = Gather<axis=0> (p, first)
        n2 = Add (n, n)
        whole = Concat<axis=0> (n2, n, four)
        e = Expand (row, whole)
        k = Mul (e, keep)
        s = ReduceSum{summed}
        t = Add (a, s)
        y = MatMul (t, v)
    """
    source = model(
        "(float[N,4] x) => (float[N,2] y) <float[4,4] w, float[4,2] v, float[4] row, int64[1] first = {0},"
        " int64[1] four = {4}, float[4] keep = {1, 0, 0, 1}>",
        body,
        opset,
    )
    (shape,) = (t.shape for n in prepared(source).nodes for t in n.outputs if t.name == "k")
    assert len(shape) == 3 and shape[2] == 4
    exact(source, N=(1, 3))


def test_a_matrix_product_says_its_columns_whatever_its_rows() -> None:
    """The number of axes before the product comes as an input of unknown length."""
    body = "r = Reshape (x, shape)  g = Gemm (r, w)  m = Mul (g, keep)  y = Gemm (m, v)"
    constants = {"w": random(4, 6), "keep": np.array([1.0, 0, 1, 0, 1, 0]), "v": random(6, 2, seed=1)}
    source = model("(float[N,2,2] x, int64[rank] shape) => (float[N,2] y)", body, **constants)
    result = shrink(source)
    assert result.report.masked[0].masked == 3
    assert result.report.after.params == 4 * 3 + 3 * 2


def test_nothing_is_said_of_a_size_beside_an_empty_one() -> None:
    """The square of the batch times nothing has as many elements as the batch times nothing."""
    body = """
        s = Shape (x)
        n = Gather (s, first)
        square = Mul (n, n)
        shape = Concat<axis=0> (square, none)
        y = Reshape<allowzero=1> (x, shape)
    """
    source = model("(float[N,0,4] x) => (float[A,0] y)", body, first=np.array([0]), none=np.array([0]))
    (shape,) = (t.shape for n in prepared(source).nodes for t in n.outputs if t.name == "y")
    assert shape[0] != "N" and shape[1] == 0


def test_sizes_that_are_picked_by_a_long_vector_are_not_known() -> None:
    body = "s = Shape(x) g = Gather(s, at) y = Expand(x, g)"
    source = model("(float[N,4] x, int64[5000] at) => (float[N,4] y)", body, checked=False)
    assert operators(shrink(source)) == ["Shape", "Gather", "Expand"]


def test_a_vector_of_sizes_that_is_longer_than_memory() -> None:
    """Nothing is made of it before it is refused."""
    signature = f"(float[2,2] x, int64[{2**63 - 1}] sizes) => (float[2,2] y)"
    source = model(signature, "y = Reshape(x, sizes)", checked=False)
    with pytest.raises(GraphError, match="elements at most"):
        shrink(source)
