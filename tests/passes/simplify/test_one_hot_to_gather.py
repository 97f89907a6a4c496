"""Products with one-hot rows are look-ups."""

import numpy as np
import onnx
import pytest

from maskc.runtime.openvino_session import OpenVinoSession
from passes import shrink
from passes.model.declarations import dims_of
from tests.generators.running import Runner
from tests.passes.text import Array, compiled, mask, model, operators, random, weight

CLASSES = np.arange(9, dtype=np.int64)


def embedding(
    body: str = "y = MatMul(c, w)",
    classes: Array = CLASSES,
    w: Array | None = None,
    opset: int = 17,
    shape: str = "N,T,1",
    compare: str = "Equal(x, classes)",
    **more: Array,
) -> onnx.ModelProto:
    """Integers as one-hot rows `c`, and what is made of these."""
    w = random(classes.size, 4) if w is None else w
    outputs = f"float[{shape[:-1]}{w.shape[-1]}] y"
    nodes = f"e = {compare} c = Cast<to=1>(e) {body}"
    return model(f"({classes.dtype}[{shape}] x) => ({outputs})", nodes, opset, classes=classes, w=w, **more)


def outputs(model: onnx.ModelProto, tokens: Array) -> Array:
    return np.asarray(Runner(model)({"x": tokens})[0])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (embedding(), "Squeeze Clip Sub Gather"),
        (embedding(compare="Equal(classes, x)"), "Squeeze Clip Sub Gather"),
        (embedding(opset=12), "Squeeze Clip Sub Gather"),
        (embedding(classes=CLASSES[::-1].copy()), "Squeeze Clip Sub Gather"),
        (embedding(classes=CLASSES.reshape(1, 1, 9)), "Squeeze Clip Sub Gather"),
        (embedding(classes=CLASSES + 1), "Squeeze Clip Gather"),
        (embedding(classes=(CLASSES - 20).astype(np.int32)), "Squeeze Clip Sub Gather"),
        (embedding("a = MatMul(c, w) m = Mul(a, b) y = Add(m, b)", b=random(4)), "Squeeze Clip Sub Gather"),
    ],
)
def test_a_product_is_a_look_up(source: onnx.ModelProto, expected: str) -> None:
    result = compiled(source)
    assert operators(result) == expected.split()
    x = source.graph.input[0]
    limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type))
    for token in [*range(-31, 31), limits.min, limits.max]:  # also what is no class
        tokens = np.full([d if isinstance(d, int) else 2 for d in dims_of(x) or ()], token, limits.dtype)
        expected_rows = outputs(source, tokens)
        np.testing.assert_allclose(outputs(result.model, tokens), expected_rows, rtol=1e-6, atol=1e-7)


def test_masked_columns_go() -> None:
    body = "a = MatMul(c, w) b = Mul(a, k) r = Relu(b) y = MatMul(r, v)"
    result = compiled(embedding(body, k=mask(1, 0, 1, 0, rank=2), v=random(4, 4, seed=1)))
    assert operators(result) == ["Squeeze", "Clip", "Sub", "Gather", "Relu", "MatMul"]
    assert weight(result, "Gather", index=0).shape == (11, 2)


@pytest.mark.parametrize(
    "source",
    [
        embedding(classes=np.array([0, 1, 2, 4, 5, 6, 7, 8, 9])),
        embedding(classes=np.array([0, 1, 2, 2, 3, 4, 5, 6, 7])),
        embedding(classes=CLASSES + np.iinfo(np.int64).max - 8),
        embedding(w=random(9, 5)),  # two rows more would be more than the classes
        embedding(w=np.where(np.arange(9)[:, None] == 3, np.inf, random(9, 4))),
        embedding(opset=11),
        embedding(shape="N,9"),
    ],
)
def test_others_stay(source: onnx.ModelProto) -> None:
    assert "MatMul" in operators(shrink(source))


def test_one_hot_rows_that_others_read_stay() -> None:
    source = embedding("a = MatMul(c, w) s = ReduceSum<keepdims=1>(c, last) y = Mul(a, s)", last=np.array([-1]))
    assert "Equal" in operators(compiled(source))


@pytest.mark.openvino
def test_in_openvino() -> None:
    source = embedding()
    result = shrink(source, target="openvino").model
    tokens = np.array([-5, -1, 0, 3, 8, 9, 100]).reshape(1, 7, 1)
    (found,) = OpenVinoSession(result).run({"x": tokens}).values()
    np.testing.assert_allclose(found, outputs(source, tokens), rtol=1e-6)
