"""Models in OpenVINO: what goes in, what comes out, and what is said of models that it cannot run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from maskc import frontend
from maskc.errors import InputError, RunError, UnavailableError
from maskc.frontend import external_data, write_model_files
from maskc.frontend.graph_queries import has_external
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.runtime.openvino_session import OpenVinoSession
from maskc.runtime.session import choose_provider, load, place, strict
from tests.maskc import build
from tests.maskc.command import process

pytestmark = pytest.mark.openvino


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("make", "shape"), [(build.mlp, (8,)), (build.cnn, (3, 8, 8))])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_it_computes_what_onnx_runtime_computes_and_the_same_each_time(
    make: Callable[[], onnx.ModelProto], shape: tuple[int, ...], batch: int
) -> None:
    model, x = make(), drawn(batch, *shape)
    session = OpenVinoSession(model)
    (y,) = session.run({"x": x}).values()
    np.testing.assert_allclose(y, OnnxRuntimeSession(model).run({"x": x})["y"], rtol=1e-4, atol=1e-5)
    for again in (session, OpenVinoSession(model)):
        np.testing.assert_array_equal(again.run({"x": x})["y"], y)


def test_outputs_have_their_names_in_order_and_stay_when_it_runs_again() -> None:
    signature = "(float[n,3] x) => (float[n,3] z, float[n,3] x, float[n,3] a, bool[n,3] more)"
    model = build.model(signature, "z = Relu(x) a = Neg(x) more = Greater(x, zero)", checked=False, zero=np.array(0.0))
    session = OpenVinoSession(model)
    x = drawn(2, 3)
    first = session.run({"x": x})
    session.run({"x": drawn(4, 3)})
    assert session.outputs == tuple(first) == ("z", "x", "a", "more")
    for name, expected in {"z": np.maximum(x, 0), "x": x, "a": -x, "more": x > 0}.items():
        assert first[name].dtype == expected.dtype
        np.testing.assert_array_equal(first[name], expected)


def test_open_sizes_scalars_and_nothing() -> None:
    signature = "(float[b,3,h,w] x, float factor) => (float[b,4,h,w] y)"
    model = build.model(signature, "c = Conv<pads=[1,1,1,1]>(x, k) y = Mul(c, factor)", k=(4, 3, 3, 3))
    session, other = OpenVinoSession(model), OnnxRuntimeSession(model)
    for shape in ((1, 3, 8, 8), (2, 3, 17, 5), (5, 3, 1, 1), (0, 3, 4, 4)):
        fed = {"x": drawn(*shape), "factor": np.array(0.5, np.float32)}
        y = session.run(fed)["y"]
        assert y.shape == (shape[0], 4, *shape[2:])
        np.testing.assert_allclose(y, other.run(fed)["y"], rtol=1e-4, atol=1e-5)


def test_an_input_that_nothing_reads_is_taken_and_one_with_a_default_is_not_asked_for() -> None:
    signature = "(float[n,3] x, float[n] unread, float[3] bias) => (float[n,3] y)"
    built = build.model(signature, "y = Add(x, bias)", bias=np.ones(3))
    x = drawn(2, 3)
    np.testing.assert_array_equal(OpenVinoSession(built).run({"x": x, "unread": drawn(2)})["y"], x + 1)


def test_inputs_whose_names_are_lost_with_an_operator_are_told_apart() -> None:
    signature = "(float[n,3] q, float[n,3] b, float[n,3] a) => (float[n,3] y, float[n,3] b)"
    body = "d = Dropout(a) r = Relu(d) i = Identity(b) y = Sub(r, i)"
    built = build.model(signature, body, checked=False)
    fed = {name: drawn(2, 3) + k for k, name in enumerate("qba")}
    results = OpenVinoSession(built).run(fed)
    np.testing.assert_array_equal(results["y"], np.maximum(fed["a"], 0) - fed["b"])
    np.testing.assert_array_equal(results["b"], fed["b"])


def test_inputs_that_do_not_fit_are_refused() -> None:
    session = OpenVinoSession(build.mlp())
    for fed in ({"x": drawn(2, 7)}, {"x": drawn(8)}, {}):
        with pytest.raises(RunError, match=r"^OpenVINO fails: [^\n]*[^.]\.$") as caught:
            session.run(fed)
        assert "src/" not in str(caught.value)
    assert session.run({"x": drawn(2, 8)})["y"].shape == (2, 4)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_other_floating_point_types_are_computed_in_single_precision(kind: str) -> None:
    dtype = {"FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16, "DOUBLE": np.float64}[kind]
    weights = drawn(8, 5).astype(dtype)
    element = kind.lower()
    model = build.model(f"({element}[n,8] x) => ({element}[n,5] y)", "h = MatMul(x, w) y = Relu(h)", checked=False)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    session = OpenVinoSession(model)
    x = drawn(3, 8).astype(dtype)
    y = session.run({"x": x})["y"]
    wide = np.maximum(x.astype(np.float64) @ weights.astype(np.float64), 0)
    assert y.dtype == (np.float32 if kind == "BFLOAT16" else dtype)  # numpy itself has no bfloat16
    coarse = {"FLOAT16": 1e-3, "BFLOAT16": 1e-2, "DOUBLE": 1e-6}[kind]
    np.testing.assert_allclose(y.astype(np.float64), wide, rtol=coarse, atol=coarse)
    assert np.dtype(dtype).name in session.note and "float32" in session.note
    assert OpenVinoSession(build.mlp()).note == "" and session.finest == TensorProto.FLOAT


def test_single_precision_is_asked_for_whatever_the_processor_offers() -> None:
    compiled = OpenVinoSession(build.mlp())._request.get_compiled_model()
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_products_with_weights_of_few_bits_are_in_single_precision(dtype: type) -> None:
    """By default OpenVINO rounds their other operand to 8 bits, an error of more than a thousandth."""
    rng = np.random.default_rng(0)
    bounds = np.iinfo(dtype)
    w, zero = rng.integers(bounds.min, bounds.max, (256, 64)).astype(dtype), dtype((bounds.max + bounds.min + 1) // 2)
    body = "plain = DequantizeLinear(w, step, zero) y = MatMul(x, plain)"
    weights = {"w": w, "step": np.array(0.01), "zero": zero}
    model = build.model("(float[n,256] x) => (float[n,64] y)", body, **weights)
    x = drawn(4, 256)
    exact = x.astype(np.float64) @ ((w.astype(np.float64) - float(zero)) * np.float64(np.float32(0.01)))
    assert np.abs(OpenVinoSession(model).run({"x": x})["y"] - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("in_files", [True, False])
def test_weights_in_files_and_too_large_for_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_files: bool, embedded: bool
) -> None:
    """OpenVINO itself looks for files only below the directory that the process is in."""
    model, x = build.mlp(hidden=4096), drawn(2, 8)
    expected = OpenVinoSession(model).run({"x": x})["y"]
    if in_files:
        monkeypatch.setattr(external_data, "STAYS", 1)
        model = frontend.read(build.save_external(model, tmp_path / "model.onnx"), stay=True).model
        assert has_external(model)
    if not embedded:
        monkeypatch.setattr(write_model_files, "EMBEDDED_LIMIT", 100)
    np.testing.assert_array_equal(OpenVinoSession(model).run({"x": x})["y"], expected)


def test_an_operator_that_it_does_not_know_is_named_with_its_node() -> None:
    custom = build.custom()
    with pytest.raises(UnavailableError, match=r"com\.example\.Fancy, .* Use --provider cpu"):
        OpenVinoSession(custom)
    built = build.model("(float[n,2,2] x) => (float[n] y)", "[area] y = Det(x)")
    with pytest.raises(UnavailableError, match=r"operator Det \(node 'area'\), so"):
        OpenVinoSession(built)


def test_what_it_cannot_convert_is_said_in_a_sentence() -> None:
    body = "parts = SplitToSequence<axis=0>(x) y = SequenceAt(parts, one)"
    built = build.model("(float[n,3] x) => (float[?,3] y)", body, one=np.array(1))
    with pytest.raises(UnavailableError, match=r"^OpenVINO [^\n]*\. Use --provider cpu") as caught:
        OpenVinoSession(built)
    assert "src/" not in str(caught.value)


def test_text_and_sequences_are_refused_before_they_end_the_process() -> None:
    with pytest.raises(UnavailableError, match=r"input 'x' is of text\. Use --provider cpu"):
        OpenVinoSession(build.model("(string[n] x) => (string[n] y)", "y = Identity(x)"))
    parts = build.model("(float[3] x) => (seq(float[?]) parts)", "parts = SplitToSequence(x)", checked=False)
    with pytest.raises(UnavailableError, match="output 'parts' is no tensor but of type sequence"):
        OpenVinoSession(parts)


def test_without_openvino_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for attempt in (lambda: choose_provider("openvino"), lambda: OpenVinoSession(build.mlp())):
        with pytest.raises(UnavailableError, match=r"pip install 'maskc\[openvino\]'`, or use --provider cpu"):
            attempt()


def test_its_use_is_not_reported_to_anyone() -> None:
    """Imported in another way it starts a thread that sends an event."""
    code = (
        "import sys; from maskc.runtime.openvino_session import import_openvino; import_openvino();"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'openvino_telemetry'))"
    )
    done = process(code=code)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_index_beyond_the_table_is_refused_as_onnx_runtime_does() -> None:
    """OpenVINO gives zeros for it."""
    model = build.model("(int64[n] ids) => (float[n,3] y)", "y = Gather(table, ids)", table=(4, 3))
    session = load(model, "openvino")
    assert not session.run({"ids": np.array([9])})["y"].any()
    careful = strict(session, model, "openvino")
    assert careful.run({"ids": np.array([3])})["y"].any()
    with pytest.raises(RunError, match="ONNX Runtime"):
        careful.run({"ids": np.array([9])})
    assert strict(session, build.custom(), "openvino") is session  # which ONNX Runtime does not know
    assert strict(session, model, "cpu") is session


def test_operators_as_they_are_written_run_in_onnx_runtime() -> None:
    assert isinstance(load(build.mlp(), "openvino"), OpenVinoSession)
    assert isinstance(load(build.mlp(), "openvino", optimized=False), OnnxRuntimeSession)
    assert isinstance(load(build.mlp()), OnnxRuntimeSession)


def test_names_of_providers() -> None:
    assert choose_provider("openvino") == "openvino" and choose_provider("cpu") == "cpu"
    with pytest.raises(InputError, match=r"no provider 'tpu'\. There are cpu, cuda, tensorrt, openvino and auto\."):
        choose_provider("tpu")
    assert place("openvino") == "in OpenVINO on the CPU" and place("cpu") == "in ONNX Runtime on the CPU"
    assert place("tensorrt") == "in ONNX Runtime on TensorRT"
