"""A Gelu, however it is spelled, is one operator, and nothing else is taken for one."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from maskc.runtime.openvino_session import import_openvino
from passes import shrink
from passes.simplify.decomposed_operators.gelu import added, multiplied
from passes.sizes.prepare import prepared
from tests.passes.text import compiled, left_over, loaded, model, operators, weight

NUMBERS = {
    "root": math.sqrt(2),
    "unroot": math.sqrt(0.5),
    "halved": 0.5 * math.sqrt(2),
    "one": 1.0,
    "half": 0.5,
    "two": 2.0,
    "three": 3.0,
    "four": 4.0,
    "cubic": 0.044715,
    "steep": math.sqrt(2 / math.pi),
    "product": 0.044715 * math.sqrt(2 / math.pi),
    "near": 0.7075,
    "other": 0.0447,
}

ERF = {
    "by a factor, as TensorFlow": "d = Mul(h, unroot) f = Erf(d) e = Add(one, f) v = Mul(half, h) g = Mul(v, e)",
    "half of the gate": "d = Div(h, root) f = Erf(d) e = Add(f, one) p = Mul(e, half) g = Mul(h, p)",
    "half behind": "d = Mul(unroot, h) f = Erf(d) e = Add(f, one) p = Mul(e, h) g = Mul(half, p)",
    "half by division": "d = Mul(h, unroot) f = Erf(d) e = Add(f, one) p = Mul(e, h) g = Div(p, two)",
    "half of each": "v = Mul(h, half) d = Mul(v, root) f = Erf(d) e = Mul(v, f) g = Add(v, e)",
    "twice half": "v = Mul(h, half) d = Mul(h, halved) f = Erf(d) e = Add(f, one) g = Mul(v, e)",
}
TANH = {
    "cube by products, as PyTorch": "c = Mul(h, h) q = Mul(h, c) k = Mul(cubic, q) a = Add(h, k) s = Mul(steep, a)"
    " t = Tanh(s) e = Add(one, t) p = Mul(h, e) g = Mul(half, p)",
    "half behind": "q = Pow(h, three) k = Mul(q, cubic) a = Add(h, k) s = Mul(a, steep) t = Tanh(s)"
    " e = Add(t, one) p = Mul(h, e) g = Mul(p, half)",
    "known": "v = Mul(h, half) q = Pow(h, three) k = Mul(q, cubic) a = Add(h, k) s = Mul(a, steep) t = Tanh(s)"
    " e = Add(t, one) g = Mul(v, e)",
    "Horner": "c = Pow(h, two) k = Mul(c, product) a = Add(k, steep) s = Mul(h, a) t = Tanh(s) e = Add(t, one)"
    " v = Mul(e, half) g = Mul(v, h)",
}
KNOWN = {
    "known": "d = Div(h, root) f = Erf(d) e = Add(f, one) p = Mul(h, e) g = Mul(p, half)",
    "known, half first": "d = Div(h, root) f = Erf(d) e = Add(f, one) p = Mul(h, half) g = Mul(p, e)",
}
HORNER = (
    "k = Mul(h, cubic) q = Mul(k, h) a = Add(q, one) d = Mul(h, steep) s = Mul(d, a) t = Tanh(s) e = Add(t, one)"
    " v = Mul(h, half) g = Mul(v, e)"
)
NEITHER = {
    "another slope": "d = Mul(h, near) f = Erf(d) e = Add(f, one) v = Mul(h, half) g = Mul(v, e)",
    "not half": "d = Mul(h, unroot) f = Erf(d) e = Add(f, one) v = Mul(h, near) g = Mul(v, e)",
    "less than one": "d = Mul(h, unroot) f = Erf(d) e = Sub(f, one) v = Mul(h, half) g = Mul(v, e)",
    "of something else": "i = Neg(h) d = Mul(h, unroot) f = Erf(d) e = Add(f, one) v = Mul(i, half) g = Mul(v, e)",
    "another cube": "q = Pow(h, three) k = Mul(q, other) a = Add(h, k) s = Mul(a, steep) t = Tanh(s)"
    " e = Add(t, one) p = Mul(h, e) g = Mul(p, half)",
    "a fourth power": "q = Pow(h, four) k = Mul(q, cubic) a = Add(h, k) s = Mul(a, steep) t = Tanh(s)"
    " e = Add(t, one) p = Mul(h, e) g = Mul(p, half)",
    "a vector": "d = Mul(h, unroot) f = Erf(d) e = Add(f, one) v = Mul(h, halves) g = Mul(v, e)",
}


def between(body: str, signature: str = "(float[N,5,8] x) => (float[N,5,3] y)", opset: int = 17) -> onnx.ModelProto:
    """Two products of matrices with this between them; two channels in the middle are masked."""
    return model(
        f"{signature} <float[8,8] w, float[8,3] v2, float[8] mask = {{1, 0, 1, 1, 0, 1, 1, 1}}>",
        f"h = MatMul(x, w) {body} m = Mul(g, mask) y = MatMul(m, v2)",
        opset,
        constants=NUMBERS | {"halves": np.linspace(0.4, 0.6, 8)},
    )


@pytest.mark.parametrize("target", ["any", "onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "body",
    [*ERF.values(), *KNOWN.values(), *TANH.values(), HORNER],
    ids=[*ERF, *KNOWN, *TANH, "known as Horner"],
)
def test_it_is_spelled_as_runtimes_know_it(body: str, target: str, tmp_path: Path) -> None:
    """Without the half, which the weights behind it do not take, each operator would go over the data."""
    source = between(body)
    assert not left_over(prepared(source))
    assert body not in ERF.values() or "Gelu" not in loaded(source, tmp_path)
    result = compiled(source, target)
    assert loaded(result.model, tmp_path) == ["MatMul", "Gelu" if "Erf" in body else "FastGelu", "MatMul"]
    assert weight(result, "MatMul", which=1).shape == (6, 3)
    assert result.report.after.flops <= result.report.before.flops


@pytest.mark.parametrize("body", [*ERF.values(), *KNOWN.values(), *TANH.values()], ids=[*ERF, *KNOWN, *TANH])
def test_from_opset_20_on_it_is_an_operator(body: str) -> None:
    assert not left_over(prepared(between(body, opset=20)))
    result = compiled(between(body, opset=20))
    assert operators(result) == ["MatMul", "Gelu", "MatMul"]
    attributes = {a.name: a.s for n in result.model.graph.node for a in n.attribute}
    assert attributes == ({"approximate": b"tanh"} if body in TANH.values() else {})
    assert weight(result, "MatMul", which=1).shape == (6, 3)


@pytest.mark.openvino
@pytest.mark.parametrize("body", [*ERF.values(), *TANH.values(), HORNER])
def test_openvino_makes_one_operator_of_it(body: str) -> None:
    core = import_openvino().Core()
    result = core.compile_model(core.read_model(compiled(between(body)).model.SerializeToString()), "CPU")
    kinds = [op.get_rt_info()["layerType"].astype(str) for op in result.get_runtime_model().get_ordered_ops()]
    assert kinds.count("FullyConnected") == 2 and not {"Eltwise", "Subgraph"} & {*kinds}


@pytest.mark.parametrize("body", NEITHER.values(), ids=NEITHER)
def test_what_is_almost_one_stays_as_it_is(body: str, tmp_path: Path) -> None:
    assert "Gelu" not in operators(compiled(between(body, opset=20)))
    assert not {"Gelu", "FastGelu"} & {*loaded(compiled(between(body)).model, tmp_path)}


def test_what_others_read_too_stays_as_it_is() -> None:
    """The gate is an output, so it must be there anyway."""
    source = between(
        "d = Mul(h, unroot) f = Erf(d) e = Add(f, one) v = Mul(h, half) g = Mul(v, e)",
        "(float[N,5,8] x) => (float[N,5,3] y, float[N,5,8] f)",
    )
    assert "Div" not in operators(compiled(source))


def test_one_that_broadcasts_stays_as_it_is() -> None:
    source = model(
        "(float[8] x) => (float[1,8] y)",
        "d = Mul(x, unroot) f = Erf(d) e = Add(f, one) v = Mul(x, half) y = Mul(v, e)",
        unroot=np.full([1, 1], math.sqrt(0.5)),
        one=np.ones([1, 1]),
        half=np.full([1, 1], 0.5),
    )
    assert "Div" not in operators(compiled(source))


def test_in_half_precision_it_stays_as_it_is() -> None:
    source = model(
        "(float16[4] x) => (float16[4] y)",
        "d = Mul(x, unroot) f = Erf(d) e = Add(f, one) v = Mul(x, half) y = Mul(v, e)",
        **{name: np.array(NUMBERS[name], np.float16) for name in ("unroot", "one", "half")},
    )
    assert [n.op_type for n in shrink(source).model.graph.node] == [n.op_type for n in source.graph.node]


def test_polynomials() -> None:
    x, y = {("x",): 1.0}, {("y",): 1.0}
    total = added(x, y)
    assert total is not None
    assert multiplied(total, total) == {("x", "x"): 1.0, ("x", "y"): 2.0, ("y", "y"): 1.0}
    assert added(total, x, -1.0) == {("x",): 0.0, ("y",): 1.0}
    many = {(f"x{i}",): 1.0 for i in range(8)}
    assert added(many, y) is None
