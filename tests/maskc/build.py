"""Tiny ONNX models, each with something to find in it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import passes
from maskc.frontend.external_data import relocate
from maskc.frontend.graph_queries import copied
from tests.passes.text import model


def weight(name: str, *shape: int) -> TensorProto:
    return constant(name, np.random.default_rng([*name.encode()]).normal(size=shape))


def constant(name: str, values: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def value(name: str, shape: Sequence[int | str | None], elem_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, shape)


MLP = """
    [first] a = MatMul(x, w1)
    b = Add(a, b1)
    c = Relu(b)
    d = Mul(c, mask)
    [second] y = MatMul(d, w2)
"""


def mlp(masked: bool = True, hidden: int = 16, edits: Mapping[str, str] | None = None, **weights: Any) -> ModelProto:
    """x[n,8] → MatMul, Add, Relu, mask over every second channel, MatMul → y[n,4]; with edits of its text."""
    signature, body = "(float[n,8] x) => (float[n,4] y)", MLP if masked else MLP.replace("Mul(c, mask)", "Identity(c)")
    for old, new in (edits or {}).items():
        assert old in signature or old in body, old
        signature, body = signature.replace(old, new), body.replace(old, new)
    given = {"w1": (8, hidden), "b1": (hidden,), "w2": (hidden, 4)}
    mask = {"mask": np.tile([1.0, 0.0], hidden // 2)} if masked else {}
    return model(signature, body, checked=False, **given | mask | weights)


def cnn(**weights: Any) -> ModelProto:
    """x[n,3,8,8] → Conv, BatchNormalization, Relu → pooled → y[n,4], with no masks in the graph."""
    body = """
        conv = Conv<pads=[1,1,1,1]>(x, k)
        normal = BatchNormalization(conv, scale, shift, mean, var)
        act = Relu(normal)
        pooled = GlobalAveragePool(act)
        flat = Flatten(pooled)
        y = MatMul(flat, w)
    """
    given = {"k": (6, 3, 3, 3), "scale": (6,), "shift": (6,), "mean": (6,), "var": np.linspace(0.5, 2, 6), "w": (6, 4)}
    return model("(float[n,3,8,8] x) => (float[n,4] y)", body, checked=False, **given | weights)


def segmentation() -> ModelProto:
    """image[n,3,h,w] → Conv, mask over every second channel, Conv → y[n,4,h,w]."""
    body = "[first] a = Conv<pads=[1,1,1,1]>(image, k) b = Mul(a, mask) [last] y = Conv<pads=[1,1,1,1]>(b, w)"
    weights = {"k": (8, 3, 3, 3), "w": (4, 8, 3, 3), "mask": np.array([[[[1.0]], [[0.0]]] * 4])}
    return model("(float[n,3,h,w] image) => (float[n,4,h,w] y)", body, **weights)


def custom() -> ModelProto:
    """The MLP with an operator in the middle that only its owner knows."""
    return mlp(edits={"Relu": "com.example.Fancy"})


def save(built: ModelProto, path: Path) -> Path:
    path.write_bytes(built.SerializeToString())
    return path


def save_external(built: ModelProto, path: Path, location: str | None = None) -> Path:
    """Save with all weights in `<name>.weights`; `location` is what the model then says they are in."""
    built = copied(built)
    onnx.save_model(built, path, save_as_external_data=True, location=f"{path.name}.weights", size_threshold=0)
    if location is not None:
        light = onnx.load(path, load_external_data=False)
        for tensor in light.graph.initializer:
            relocate(tensor, location)
        save(light, path)
    return path


def run(built: ModelProto | Path, **inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs by name, from ONNX Runtime used directly."""
    import onnxruntime

    data = str(built) if isinstance(built, Path) else built.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def sparse(*indices: int) -> onnx.ModelProto:
    """The MLP with a first product whose weights are zero but at these places."""
    built = mlp()
    del built.graph.initializer[0]
    values = constant("w1", np.arange(1, len(indices) + 1))
    places = constant("w1_places", indices, np.int64)
    built.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8, 16]))
    return built


def fancy(node: str, inputs: str = "i") -> onnx.ModelProto:
    """The MLP with its custom operator as a local function of this node."""
    built = custom()
    head = '<opset_import: ["": 17, "com.example": 1], domain: "com.example">'
    built.functions.append(onnx.parser.parse_function(f"{head} Fancy ({inputs}) => (o) {{ {node} }}"))
    return built


def break_compiler(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray[Any, Any]], Any]) -> None:
    """From now on the weights of what is compiled are changed."""
    right = passes.shrink

    def wrong(model: ModelProto, adapters: passes.Policy, **options: Any) -> passes.Shrunk:
        shrunk = right(model, adapters)
        for tensor in shrunk.model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
        return shrunk

    monkeypatch.setattr(passes, "shrink", wrong)


def changed(model: onnx.ModelProto, name: str, change: Any) -> onnx.ModelProto:
    """The model with one of its weights changed."""
    copy = copied(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
            return copy
    raise KeyError(name)
