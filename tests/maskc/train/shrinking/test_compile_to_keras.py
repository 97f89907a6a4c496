"""`maskc compile` with formats of TensorFlow."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.maskc.command import maskc, refused, reported, succeeded
from tests.maskc.train.shrinking.networks import data, made
from tests.maskc.train.shrinking.test_shrink import chain


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path, model = tmp_path_factory.mktemp("models") / "model.keras", made(chain)
    model.save(path)
    return path, model


def test_a_keras_file(model: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKC_TRUST", "0")  # what the option sets is taken back
    found = reported("compile", model[0], "-o", tmp_path / "small.keras", "--trust")
    small = keras.models.load_model(tmp_path / "small.keras")
    assert found["after"]["params"] == small.count_params() and found["after"]["flops"] < found["before"]["flops"] / 1.8
    np.testing.assert_allclose(small(data(model[1])), model[1](data(model[1])), rtol=1e-5, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["small.keras"]


@pytest.mark.slow
def test_a_saved_model_and_tflite(model: tuple[Path, Any], tmp_path: Path) -> None:
    inputs = data(model[1], batch=1)
    expected = np.asarray(model[1](inputs))
    for _ in range(2):  # an earlier one is replaced
        succeeded("compile", model[0], "--format", "saved_model", "-o", tmp_path / "saved")
    (served,) = tf.saved_model.load(tmp_path / "saved").signatures["serve"](tf.constant(inputs)).values()
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-5)
    result = maskc("compile", model[0], "-o", tmp_path / "small.tflite")
    assert "Verified in TensorFlow: the outputs match." in result.stdout
    interpreter = tf.lite.Interpreter(str(tmp_path / "small.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "close"), [("float16", 2e-3), ("dynamic", 5e-2), ("int8", 0.1)])
def test_quantised_tflite(model: tuple[Path, Any], tmp_path: Path, quantize: str, close: float) -> None:
    """In fewer bytes, and about as in single precision; it is run beside the model with masks."""
    np.savez(tmp_path / "data.npz", data(model[1], batch=20))
    given = ["--data", tmp_path / "data.npz"] if quantize == "int8" else []
    output = tmp_path / "small.tflite"
    found = reported("compile", model[0], "-o", output, "--quantize", quantize, *given)
    assert 1e-7 < found["run"]["error"] < close and found["run"]["after"] > 0
    single = reported("compile", model[0], "-o", tmp_path / "single.tflite")
    assert output.stat().st_size < 0.8 * single["after"]["bytes"]


@pytest.mark.slow
def test_examples_that_do_not_fit(model: tuple[Path, Any], tmp_path: Path) -> None:
    output = tmp_path / "small.tflite"
    fitting = data(model[1], batch=2)
    for examples in (np.ones((3, 5), np.float32), np.nan * fitting, fitting[:0]):
        np.savez(tmp_path / "data.npz", examples)
        result = maskc("compile", model[0], "-o", output, "--quantize", "int8", "--data", tmp_path / "data.npz")
        refused(result, 2, "int8 needs examples")
        assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{model}", "--format", "keras", "-o", "{there}/small.foo"], "must end with .keras"),
        (["{model}", "--format", "keras"], "needs -o"),
        (["{model}", "-o", "{there}/small.keras", "--align", "none"], "--align is for ONNX only"),
        (["{there}", "-o", "{there}/small.keras"], "has no Keras layers"),
        (["{model}", "-o", "{there}/small.nobody", "--format", "nobody"], "nobody"),
        (["{model}", "-o", "{there}/small.foo"], "no known output format"),
        (["{model}", "-o", "{there}/small.keras", "--quantize", "float16"], "--quantize and --data are for .tflite"),
        (["{model}", "-o", "{there}/small.tflite", "--quantize", "int8"], "needs examples in --data"),
        (["{model}", "--format", "saved_model", "-o", "{there}/\udce4"], "a path that is not in UTF-8"),
        (["{model}", "--format", "saved_model", "-o", "{there}"], "something else than an earlier SavedModel"),
    ],
)
def test_wrong_use(model: tuple[Path, Any], tmp_path: Path, arguments: list[str], told: str) -> None:
    given = [argument.format(model=model[0], there=tmp_path) for argument in arguments]
    refused(maskc("compile", *given), 2, told)
    assert not list(tmp_path.iterdir())
