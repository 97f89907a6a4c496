"""A normalisation of masked channels is found however it is spelled, and written as runtimes know it."""

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.generators.running import Runner
from tests.passes.text import model, operators, random

CENTRED = "u = ReduceMean<axes=[-1]>(h)  c = Sub(h, u)  "
BEHIND = "q = Mul(d, s)  n = Add(q, b)"
SPELLED = {
    "PyTorch": CENTRED + "p = Pow(c, two)  v = ReduceMean<axes=[-1]>(p)  e = Add(v, eps)  r = Sqrt(e)  d = Div(c, r)  "
    "q = Mul(d, s)  n = Add(q, b)",
    "PyTorch before 1.4": CENTRED + "g = Sub(h, u)  p = Pow(g, two)  v = ReduceMean<axes=[2]>(p)  e = Add(v, eps)  "
    "r = Sqrt(e)  d = Div(c, r)  q = Mul(d, s)  n = Add(q, b)",
    "by a product": CENTRED + "p = Mul(c, c)  v = ReduceMean<axes=[-1]>(p)  e = Add(eps, v)  r = Sqrt(e)  "
    "i = Reciprocal(r)  d = Mul(c, i)  q = Mul(s, d)  n = Add(b, q)",
    "by a quotient": CENTRED + "p = Mul(c, c)  v = ReduceMean<axes=[-1]>(p)  e = Add(eps, v)  r = Sqrt(e)  "
    "i = Div(one, r)  d = Mul(c, i)  q = Mul(s, d)  n = Add(b, q)",
    "TensorFlow": CENTRED + "p = Mul(c, c)  v = ReduceMean<axes=[-1]>(p)  e = Add(v, eps)  r = Sqrt(e)  "
    "i = Reciprocal(r)  k = Mul(i, s)  l = Mul(h, k)  m = Mul(u, k)  o = Sub(b, m)  n = Add(l, o)",
    "TensorFlow, negated": CENTRED + "p = Mul(c, c)  v = ReduceMean<axes=[-1]>(p)  e = Add(v, eps)  r = Sqrt(e)  "
    "i = Reciprocal(r)  k = Mul(i, s)  l = Mul(h, k)  z = Neg(u)  m = Mul(z, k)  o = Add(m, b)  n = Add(l, o)",
    "no bias": CENTRED + "p = Pow(c, two)  v = ReduceMean<axes=[-1]>(p)  e = Add(v, eps)  r = Sqrt(e)  d = Div(c, r)  "
    "n = Mul(d, s)",
    "neither scale nor bias": CENTRED + "p = Pow(c, two)  v = ReduceMean<axes=[-1]>(p)  e = Add(v, eps)  r = Sqrt(e)  "
    "n = Div(c, r)",
}
KNOWN = "ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add".split()
RMS = "Pow ReduceMean Add Sqrt Div Mul".split()
NEITHER = {
    "another axis": SPELLED["PyTorch"].replace("axes=[-1]", "axes=[1]"),
    "two axes": SPELLED["PyTorch"].replace("axes=[-1]", "axes=[1, 2]"),
    "another mean": SPELLED["PyTorch"].replace("ReduceMean<axes=[-1]>(h)", "ReduceMean<axes=[1]>(h)"),
    "another power": SPELLED["PyTorch"].replace("two", "four"),
    "a sum": SPELLED["PyTorch"].replace("v = ReduceMean<axes=[-1]>", "v = ReduceSum"),
    "an epsilon for each token": SPELLED["PyTorch"].replace("eps", "many"),
    "nothing added": SPELLED["PyTorch"].replace("e = Add(v, eps)  r = Sqrt(e)", "r = Sqrt(v)"),
}


def network(steps: str, opset: int, kept: np.ndarray, **changed: np.ndarray) -> onnx.ModelProto:
    body = f"a = MatMul(x, w)  h = Mul(a, mask)  {steps}  y = MatMul(n, w2)"
    constants = {
        "two": np.float32(2),
        "four": np.float32(4),
        "one": np.float32(1),
        "eps": np.float32(1e-3),
        "many": np.linspace(0.1, 1, 5, dtype=np.float32).reshape(5, 1),
        "last": np.array([-1]),
        "s": random(16, seed=1),
        "b": random(16, seed=2),
    }
    weights = {"w": random(6, 16), "mask": kept, "w2": random(16, 4)}
    constants |= changed
    return model("(float[2,5,6] x) => (float[2,5,4] y)", body, opset, ir=10, constants=constants, **weights)


def masked() -> np.ndarray:
    return (np.arange(16) % 2).astype(np.float32)


def same(source: onnx.ModelProto, made: onnx.ModelProto) -> None:
    feeds = {"x": random(2, 5, 6, seed=3)}
    wanted = Runner(source, optimize=False)(feeds)[0]  # optimised, it takes other powers and epsilons for one, too
    np.testing.assert_allclose(Runner(made)(feeds)[0], wanted, atol=1e-4)


@pytest.mark.parametrize("steps", SPELLED.values(), ids=SPELLED)
def test_it_is_the_operator_with_zeros_behind_what_is_there(steps: str) -> None:
    source = network(steps, 17, masked())
    result = shrink(source)
    assert operators(result)[:5] == ["MatMul", "Pad", "LayerNormalization", "Slice", "MatMul"]
    same(source, result.model)


@pytest.mark.parametrize("steps", SPELLED.values(), ids=SPELLED)
@pytest.mark.parametrize("opset", [11, 13])
def test_older_opsets_get_the_steps_that_runtimes_fuse(opset: int, steps: str) -> None:
    source = network(steps, opset, masked())
    result = shrink(source)
    assert operators(result)[:13] == ["MatMul", "Pad", *KNOWN, "Slice", "MatMul"]
    assert result.model.opset_import[0].version == opset
    same(source, result.model)


@pytest.mark.parametrize("root", ["r = Sqrt(e)  i = Reciprocal(r)  d = Mul(h, i)", "r = Sqrt(e)  d = Div(h, r)"])
@pytest.mark.parametrize(("square", "end"), [("Pow(h, two)", "n = Mul(s, d)"), ("Mul(h, h)", "n = Identity(d)")])
@pytest.mark.parametrize(("opset", "wanted"), [(13, RMS), (17, RMS), (23, ["RMSNormalization"])])
def test_without_a_mean(opset: int, wanted: list[str], square: str, end: str, root: str) -> None:
    mean = "v = ReduceMean<axes=[-1]>(p)" if opset < 18 else "v = ReduceMean(p, last)"
    steps = f"p = {square}  {mean}  e = Add(v, eps)  {root}  {end}"
    source = network(steps, opset, masked())
    result = shrink(source)
    assert operators(result) == ["MatMul", *wanted, "MatMul"]
    same(source, result.model)


@pytest.mark.parametrize("opset", [13, 17])
def test_without_masks_its_steps_stay(opset: int) -> None:
    source = network(SPELLED["by a product"], opset, np.ones(16, np.float32))
    result = shrink(source)
    assert [n.name or n.output[0] for n in result.model.graph.node if n.op_type == "Reciprocal"]
    assert "LayerNormalization" not in operators(result)
    same(source, result.model)


@pytest.mark.parametrize("steps", NEITHER.values(), ids=NEITHER)
def test_nothing_else_is_taken_for_one(steps: str) -> None:
    source = network(steps, 12, masked())
    result = shrink(source)
    assert "Slice" not in operators(result)
    same(source, result.model)


def test_what_others_read_of_it_is_still_computed() -> None:
    body = f"a = MatMul(x, w)  h = Mul(a, mask)  {SPELLED['PyTorch']}  y = MatMul(n, w2)  z = MatMul(c, w2)"
    constants = {"two": np.float32(2), "eps": np.float32(1e-3), "s": random(16, seed=1), "b": random(16, seed=2)}
    weights = {"w": random(6, 16), "mask": masked(), "w2": random(16, 4)}
    signature = "(float[2,5,6] x) => (float[2,5,4] y, float[2,5,4] z, float[2,5,1] u)"
    source = model(signature, body, 13, constants=constants, **weights)
    made = shrink(source).model
    feeds = {"x": random(2, 5, 6, seed=3)}
    for ours, theirs in zip(Runner(made)(feeds), Runner(source)(feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_in_the_body_of_a_loop() -> None:
    steps = SPELLED["PyTorch"].replace("h", "f")
    body = (
        "y = Loop(rounds, , x) <body = b (int64 i, bool ci, float[2,5,16] state) => (bool co, float[2,5,16] next) "
        f"{{ co = Identity(ci)  a = MatMul(state, w)  f = Mul(a, mask)  {steps}  next = MatMul(n, w2) }}>"
    )
    constants = {"two": np.float32(2), "eps": np.float32(1e-3), "s": random(16, seed=1), "b": random(16, seed=2)}
    weights = {"w": random(16, 16), "mask": masked(), "w2": random(16, 16), "rounds": np.int64(3)}
    source = model("(float[2,5,16] x) => (float[2,5,16] y)", body, 13, constants=constants, **weights)
    made = shrink(source).model
    feeds = {"x": random(2, 5, 16, seed=3)}
    np.testing.assert_allclose(Runner(made)(feeds)[0], Runner(source)(feeds)[0], atol=1e-4)
    (loop,) = (n for n in made.graph.node if n.op_type == "Loop")
    assert "Pad" in [n.op_type for n in loop.attribute[0].g.node]


@pytest.mark.parametrize("opset", [13, 17])
def test_a_scale_of_one_and_a_bias_of_zero_stay(opset: int) -> None:
    """Without them ONNX Runtime fuses nothing, and each step takes its time."""
    kept = np.ones(16, np.float32)
    source = network(SPELLED["PyTorch"], opset, kept, s=kept, b=np.zeros(16, np.float32))
    result = shrink(source)
    assert operators(result) == ["MatMul", *KNOWN, "MatMul"]
    source = network(
        "p = Pow(h, two)  v = ReduceMean<axes=[-1]>(p)  e = Add(v, eps)  r = Sqrt(e)  d = Div(h, r)  n = Mul(d, s)",
        opset,
        kept,
        s=kept,
    )
    assert operators(shrink(source)) == ["MatMul", *RMS, "MatMul"]
