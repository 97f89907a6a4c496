"""Whole outputs: errors above the tolerance that rounding explains, and those that it does not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.frontend.graph_queries import copied
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from tests.maskc import build


def steps(ending: str, result: str = "float[n,512]", **weights: Any) -> onnx.ModelProto:
    body = f"hidden = MatMul(x, w1) smooth = MatMul(hidden, w2) {ending}"
    return build.model(f"(float[n,8] x) => ({result} y)", body, w1=(8, 64), w2=(64, 512), **weights)


def summed_otherwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with the hidden channels in another order."""
    turned = np.random.default_rng(0).permutation(64)
    return build.changed(build.changed(model, "w1", lambda w: w[:, turned]), "w2", lambda w: w[turned])


STEPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "steps of 1/256": ("r = Add(smooth, far) y = Sub(r, far)", "float[n,512]", {"far": np.array(2.0**15)}),
    "whole numbers": ("l = Mul(smooth, far) y = Floor(l)", "float[n,512]", {"far": np.array(2.0**11)}),
    "bytes": (
        "y = QuantizeLinear(smooth, step, zero)",
        "int8[n,512]",
        {"step": np.array(0.5), "zero": np.array(0, np.int8)},
    ),
    "halves": ("y = Cast<to=10>(smooth)", "float16[n,512]", {}),
    "classes": ("y = ArgMax<axis=1, keepdims=0>(smooth)", "int64[n]", {}),
    "logarithms of squares": (
        "s = Mul(smooth, smooth) p = Add(s, tiny) y = Log(p)",
        "float[n,512]",
        {"tiny": np.array(1e-10)},
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_magnify_rounding_are_accepted(name: str) -> None:
    ending, result, weights = STEPS[name]
    model = steps(ending, result, **weights)
    found = api.verify(model, summed_otherwise(model))
    assert found.verdict == "verified", (found.reasons, found.undecided)
    wrong = build.changed(model, "w2", lambda w: w * np.linspace(1, 1.01, 512, dtype=np.float32))
    assert not api.verify(model, wrong).passed


def test_an_order_that_rounding_decides_is_accepted() -> None:
    """As of boxes whose scores are almost the same: the region of the TopK alone reads numbers that are as they are."""
    rng = np.random.default_rng(0)
    ending = "best, at = TopK(smooth, k) b = Gather(boxes, at) y = Reshape(b, all)"
    sizes = {"k": np.array([64]), "all": np.array([0, 256])}
    model = steps(ending, "float[n,256]", boxes=rng.standard_normal((512, 4)), **sizes)
    twice = build.changed(
        model, "w2", lambda w: (np.tile(w[:, :256], 2) * (1 + 1e-7 * rng.choice((-1, 1), w.shape))).astype(w.dtype)
    )
    found = api.verify(twice, summed_otherwise(twice))
    assert found.verdict == "verified" and found.outputs[0].explained, found.reasons
    for name in ("w2", "boxes"):
        assert not api.verify(twice, build.changed(twice, name, lambda a: a[:, ::-1])).passed


def test_what_no_region_shows_is_no_rounding_where_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that gets one of the models wrong with optimizations and without."""
    source = build.model("(float[n,8] x) => (float[n,5] y)", "[first] a = MatMul(x, w) y = Tanh(a)", w=(8, 5))
    other = build.model("(float[n,8] x) => (float[n,5] y)", "[other] a = MatMul(x, w) y = Tanh(a)", w=(8, 5))
    loaded, run = OnnxRuntimeSession.__init__, OnnxRuntimeSession.run

    def load(self: Any, model: onnx.ModelProto, *arguments: Any, **options: Any) -> None:
        loaded(self, model, *arguments, **options)
        self.wrong = model.graph.node[0].name == "other"

    monkeypatch.setattr(OnnxRuntimeSession, "__init__", load)
    monkeypatch.setattr(
        OnnxRuntimeSession,
        "run",
        lambda self, fed: {n: a * (2 if self.wrong else 1) for n, a in run(self, fed).items()},
    )
    result = api.verify(source, other)
    assert not result.passed and not result.outputs[0].explained


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_rounding_of_one_model_by_the_runtime_counts_as_such_where_the_function_magnifies_it(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spectrum over its own range is 0 where it is flat, and noise where one element is rounded otherwise."""
    body = """
        low = ReduceMin<axes=[1]>(x) above = Sub(x, low) most = ReduceMax<axes=[1]>(above) share = Div(above, most)
        none = Equal(most, zero) scaled = Where(none, zero, share) y = MatMul(scaled, w)
    """
    source = build.model("(float[n,8] x) => (float[n,4] y)", body, w=(8, 4), zero=np.array(0.0))
    other = copied(source)
    other.graph.name = "rounded otherwise"
    loaded, run = OnnxRuntimeSession.__init__, OnnxRuntimeSession.run

    def load(self: Any, model: onnx.ModelProto, *arguments: Any, optimized: bool = True, **options: Any) -> None:
        loaded(self, model, *arguments, optimized=optimized, **options)
        self.moved = optimized and model.graph.name == other.graph.name

    def rounded(self: Any, fed: Mapping[str, Any]) -> Any:
        if not self.moved:
            return run(self, fed)
        last = np.where(np.arange(8) == 7, 1 + 2.0**-23, 1).astype(np.float32)
        return {name: factor * array for name, array in run(self, {"x": fed["x"] * last}).items()}

    monkeypatch.setattr(OnnxRuntimeSession, "__init__", load)
    monkeypatch.setattr(OnnxRuntimeSession, "run", rounded)
    result = api.verify(source, other, inputs={"x": np.full((3, 8), 0.7, np.float32)})
    assert result.passed == (factor == 1), result.reasons


def test_errors_that_rounding_explains_are_said_to_be() -> None:
    ending, result, weights = STEPS["whole numbers"]
    model = steps(ending, result, **weights)
    found = api.verify(model, summed_otherwise(model))
    if any(output.explained for output in found.outputs):
        assert any(note.startswith("Accepted: ") and "rounding" in note for note in found.notes)
    assert not api.verify(model, summed_otherwise(model), rtol=0).passed


def test_saturated_outputs_are_compared_at_their_own_scale() -> None:
    body = "scores = MatMul(x, w) low = Sub(scores, far) y = Sigmoid(low)"
    model = build.model("(float[n,8] x) => (float[n,5] y)", body, w=(8, 5), far=np.array(30.0))
    assert api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1 + 1e-7))).passed
    assert not api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1.01))).passed
