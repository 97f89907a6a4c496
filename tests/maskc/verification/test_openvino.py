"""`--provider openvino`: both models in OpenVINO, and what is said about it."""

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import maskc as api
from maskc.errors import InputError, NotComparableError, NotEquivalentError, UnavailableError
from maskc.runtime import session
from maskc.runtime.openvino_session import OpenVinoSession
from tests.maskc import build
from tests.maskc.command import maskc, refused

pytestmark = pytest.mark.openvino

IN_OPENVINO = ("--provider", "openvino")


def verify(reference: onnx.ModelProto, compiled: onnx.ModelProto, **options: Any) -> Any:
    return api.verify(reference, compiled, provider="openvino", **options)


def test_a_compiled_model_passes_and_the_result_says_where(pair: tuple[Path, Path], tmp_path: Path) -> None:
    page, data = tmp_path / "out.html", tmp_path / "out.json"
    result = maskc("verify", *pair, *IN_OPENVINO, "--bench", "--report", page, "--report", data)
    assert result.exit_code == 0, result.stderr
    assert "Verified: the outputs match on 16 samples, seed 0, in OpenVINO on the CPU." in result.stdout
    assert "ONNX Runtime" not in result.stdout
    told = json.loads(data.read_text())
    assert told["verification"]["provider"] == told["latency"]["provider"] == "openvino"
    assert {output["against"] for output in told["verification"]["outputs"]} == {"OpenVINO"}
    assert told["versions"]["openvino"].count(".") == 2 and "-" not in told["versions"]["openvino"]
    assert "in turns, in OpenVINO on the CPU" in page.read_text() and "in ONNX Runtime" not in page.read_text()


def test_a_model_that_is_another_fails_and_the_node_is_named(pair: tuple[Path, Path]) -> None:
    compiled = onnx.load(pair[1])
    last = compiled.graph.node[-1]
    build.save(build.changed(compiled, last.input[1], lambda w: w * 1.01), pair[1])
    result = maskc("verify", *pair, *IN_OPENVINO)
    assert result.exit_code == 1
    assert "Output 'y' is not what OpenVINO computes from the reference" in result.stdout
    assert "computed by MatMul 'second'" in result.stdout
    assert "OpenVINO computes that one wrongly" not in result.stdout
    assert "Failed: the outputs differ (16 samples, seed 0, in OpenVINO on the CPU)." in result.stdout


def test_compilation_is_verified_there(pair: tuple[Path, Path]) -> None:
    verified = api.compile(pair[0], verify=True, provider="openvino").report.verification
    assert verified is not None and verified.passed and verified.provider == "openvino"


@pytest.mark.slow
def test_a_sweep_measures_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = maskc("sweep", *pair, *IN_OPENVINO, "--seconds", "0.1", "--jobs", "1", "-o", tmp_path / "levels")
    assert result.exit_code == 0, result.stderr
    told = json.loads((tmp_path / "levels" / "sweep.json").read_text())
    assert told["provider"] == "openvino"
    assert all(point["latency"]["provider"] == "openvino" for point in told["points"])
    assert "with the source, in OpenVINO on the CPU." in (tmp_path / "levels" / "sweep.html").read_text()


def test_without_openvino_it_is_refused(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    refused(
        maskc("verify", *pair, *IN_OPENVINO),
        3,
        "OpenVINO cannot be imported",
        "maskc[openvino]",
        "--provider cpu",
        "--target onnx",
    )
    with pytest.raises(UnavailableError, match="OpenVINO cannot be imported"):
        api.compile(pair[0], verify=True, provider="openvino")
    assert maskc("verify", *pair).exit_code == 0


def test_an_operator_that_it_does_not_know_is_refused(tmp_path: Path) -> None:
    built = build.model("(float[n,2,2] x) => (float[n] y)", "[area] y = Det(x)")
    path = build.save(built, tmp_path / "det.onnx")
    refused(maskc("verify", path, path, *IN_OPENVINO), 3, "operator Det (node 'area')", "--provider cpu")
    assert maskc("verify", path, path).exit_code == 0


def test_a_compiled_model_that_it_does_not_know_has_failed() -> None:
    signature = "(float[n,1,1] x) => (float[n] y)"
    reference = build.model(signature, "y = Reshape(x, shape)", shape=np.array([-1]))
    compiled = build.model(signature, "y = Det(x)")
    assert api.verify(reference, compiled).passed
    result = verify(reference, compiled)
    assert not result.passed
    assert result.reasons[0].startswith("The compiled model cannot be run: OpenVINO does not know the operator Det")


def test_open_sizes_are_found() -> None:
    body = "c = Conv<pads=[1,1,1,1]>(x, k) m = Mul(c, mask) d = Conv(m, l) y = Reshape(d, shape)"
    weights = {"k": (8, 3, 3, 3), "l": (4, 8, 1, 1), "shape": np.array([0, 4, -1])}
    mask = np.array([1.0, 0] * 4).reshape(1, 8, 1, 1)
    model = build.model("(float[b,3,h,w] x) => (float[b,4,p] y)", body, mask=mask, **weights)
    result = verify(model, api.compile(model).model)
    assert result.passed, result.reasons
    assert not any("one batch size" in note for note in result.notes)


def test_indices_stay_within_their_table() -> None:
    """A sum of ids, of which nothing says how many rows there are, is an index all the same."""
    signature = "(int64[n] a, int64[n] b) => (float[n,6] y)"
    model = build.model(signature, "ids = Add(a, b) y = Gather(table, ids)", table=(3, 6))
    assert verify(model, model).passed
    with pytest.raises(InputError, match="cannot be run on the given inputs"):
        verify(model, model, inputs={"a": np.array([2]), "b": np.array([2])})


@pytest.mark.parametrize("wrong", [False, True])
def test_bfloat16_is_compared_in_single_precision(wrong: bool) -> None:
    def layer(scale: float) -> onnx.ModelProto:
        weights = (np.random.default_rng(0).normal(size=(8, 5)) * scale).astype(ml_dtypes.bfloat16)
        signature, body = "(bfloat16[n,8] x) => (bfloat16[n,5] y)", "h = MatMul(x, w) y = Relu(h)"
        model = build.model(signature, body, checked=False)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
        return model

    result = verify(layer(1.0), layer(1.5 if wrong else 1.0))
    assert result.passed is not wrong
    assert "OpenVINO computes in float32 here, instead of bfloat16." in result.notes


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_doubles_are_judged_by_the_precision_that_they_are_computed_in(factor: float) -> None:
    def layer(scale: float, order: np.ndarray[Any, Any]) -> onnx.ModelProto:
        left, right = (np.random.default_rng(seed).normal(size=shape) for seed, shape in enumerate([(8, 64), (64, 5)]))
        model = build.model("(double[n,8] x) => (double[n,5] y)", "h = MatMul(x, w) y = MatMul(h, v)", checked=False)
        for name, values in (("w", left[:, order] * scale), ("v", right[order])):
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return model

    orders = np.arange(64), np.random.default_rng(0).permutation(64)
    result = verify(layer(1.0, orders[0]), layer(factor, orders[1]))
    assert result.passed is (factor == 1), result.reasons
    (output,) = result.outputs
    assert output.dtype == "float64" and 1e-7 < output.rtol < 1e-5
    assert output.max_rel > 1e-9, "sums in another order, in single precision"
    assert "OpenVINO computes in float32 here, instead of float64." in result.notes


def test_text_is_refused() -> None:
    model = build.model("(string[n] x) => (string[n] y)", "y = Identity(x)")
    with pytest.raises(UnavailableError, match="tensors of numbers only, and input 'x' is of text"):
        verify(model, model)


def test_a_reference_that_runs_on_nothing_is_not_comparable() -> None:
    model = build.model("(float[n,3] x) => (float[7,11] y)", "y = Reshape(x, shape)", shape=np.array([7, 11]))
    with pytest.raises(NotComparableError, match="No random input was found"):
        verify(model, model)


def test_whole_steps_that_rounding_explains_are_accepted() -> None:
    """Rounding to steps of 1/2048 makes a whole step of a tiny error."""
    order = np.random.default_rng(0).permutation(64)
    body = "hidden = MatMul(x, w1) smooth = MatMul(hidden, w2) large = Mul(smooth, steps) whole = Floor(large)"
    weights = {"w1": (8, 64), "w2": (64, 512), "steps": np.array(2.0**11)}
    model = build.model("(float[n,8] x) => (float[n,512] y)", f"{body} y = Div(whole, steps)", **weights)
    other = build.changed(build.changed(model, "w1", lambda w: w[:, order]), "w2", lambda w: w[order])
    result = verify(model, other)
    assert result.passed, result.reasons
    assert any(output.explained for output in result.outputs)
    assert any("rounding" in note and "in OpenVINO" in note for note in result.notes)


def test_a_quantised_product_says_what_it_was_computed_in() -> None:
    w = np.random.default_rng(0).integers(-127, 128, (24, 16)).astype(np.int8)
    body = "plain = DequantizeLinear(w, step) y = MatMul(x, plain)"
    model = build.model("(float[n,24] x) => (float[n,16] y)", body, w=w, step=np.array(0.01))
    result = verify(model, model)
    assert result.passed
    (note,) = (note for note in result.notes if "8 bits" in note)
    assert "By default OpenVINO also rounds" in note and "DYNAMIC_QUANTIZATION_GROUP_SIZE=0" in note


@pytest.mark.parametrize("wrong", ["reference", "compiled model"])
def test_what_openvino_alone_gets_wrong_is_told_apart(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    class Wrong(OpenVinoSession):
        """An OpenVINO with a fault that only one of the models meets."""

        def __init__(self, model: onnx.ModelProto) -> None:
            super().__init__(model)
            masked = any(item.op_type == "Mul" for item in model.graph.node)
            self._factor = 1.01 if masked is (wrong == "reference") else 1.0

        def run(self, inputs: Any) -> Any:
            return {name: (array * self._factor).astype(array.dtype) for name, array in super().run(inputs).items()}

    monkeypatch.setattr(session, "OpenVinoSession", Wrong)
    result = maskc("verify", *pair, *IN_OPENVINO)
    told = f"The result of OpenVINO for the {wrong} is off by 0.01 of the scale"
    assert told in " ".join(result.stdout.split()) and "OpenVINO computes it wrongly" in result.stdout
    if wrong == "reference":  # to which the compiled model need not be as near as to what its operators say
        assert result.exit_code == 0 and "Accepted: " in result.stdout
        return
    assert result.exit_code == 1
    assert "All regions agree, so the models are the same function." in result.stdout
    assert maskc("verify", *pair).exit_code == 0
    with pytest.raises(NotEquivalentError):
        api.compile(pair[0], verify=True, provider="openvino")
