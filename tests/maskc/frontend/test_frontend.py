"""TensorFlow models as ONNX: the same function, sensible names, the same bytes; refusals name the layer."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from maskc import compile, frontend
from maskc.frontend.tensorflow import convert
from maskc.frontend.tensorflow.keras import to_onnx
from passes.model.declarations import dims_of
from tests.maskc import build
from tests.maskc.command import maskc, process, refused, reported, succeeded

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def network(keras: Any) -> Any:
    """Two inputs out of alphabetical order, two outputs, convolutions and a batch normalization."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    extra = keras.Input((4,), name="extra")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Concatenate()([x, layers.Dense(4, activation="relu")(extra)])
    model = keras.Model([image, extra], [layers.Dense(5, name="logits")(x), layers.Dense(2, name="box")(x)])
    for weight in model.weights:
        weight.assign(np.abs(keras.random.normal(weight.shape, seed=3)) + 0.1)
    return model


@pytest.fixture(scope="module")
def stored(network: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    network.save(directory / "network.keras")
    network.export(directory / "saved", verbose=False)
    return {"keras": directory / "network.keras", "saved_model": directory / "saved"}


def data(batch: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(batch)
    return {
        "image": rng.normal(size=(batch, 8, 8, 3)).astype(np.float32),
        "extra": rng.normal(size=(batch, 4)).astype(np.float32),
    }


@pytest.mark.parametrize("form", ["keras", "saved_model"])
def test_computes_what_keras_computes(network: Any, stored: dict[str, Path], form: str) -> None:
    model = frontend.load(stored[form])
    onnx.checker.check_model(model, full_check=True)
    for batch in (1, 3):
        inputs = data(batch)
        expected = network([inputs["image"], inputs["extra"]], training=False)
        actual = build.run(model, **inputs)
        for left, right in zip(expected, actual.values(), strict=True):
            np.testing.assert_allclose(right, left, rtol=0, atol=1e-5 * np.abs(left).max())


def test_names_and_sizes(stored: dict[str, Path]) -> None:
    model = frontend.load(stored["keras"])
    inputs, outputs = ({item.name: dims_of(item) for item in side} for side in (model.graph.input, model.graph.output))
    assert list(inputs.items()) == [("image", ["batch", 8, 8, 3]), ("extra", ["batch", 4])]
    assert list(outputs.items()) == [("logits", ["batch", 5]), ("box", ["batch", 2])]
    exported = frontend.load(stored["saved_model"])
    assert {item.name for item in exported.graph.input} == {"image", "extra"}
    assert [item.name for item in exported.graph.output] == ["output_0", "output_1"]


@pytest.mark.parametrize("form", ["keras", "saved_model"])
def test_same_bytes_every_time(stored: dict[str, Path], form: str) -> None:
    first, second = (frontend.load(stored[form]).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_same_bytes_in_another_process(stored: dict[str, Path], tmp_path: Path) -> None:
    here, there = tmp_path / "here.onnx", tmp_path / "there.onnx"
    assert maskc("compile", stored["saved_model"], "-o", here).exit_code == 0
    done = process("compile", stored["saved_model"], "-o", there, PYTHONHASHSEED="7")
    assert done.returncode == 0, done.stderr
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("form", ["keras", "saved_model"])
def test_compile_and_verify(stored: dict[str, Path], form: str, tmp_path: Path) -> None:
    compiled = tmp_path / "compiled.onnx"
    told = reported("compile", stored[form], "-o", compiled)
    assert {output["against"] for output in told["verification"]["outputs"]} == {"ONNX Runtime", "TensorFlow"}
    told = reported("verify", stored[form], compiled)
    assert all(output["max_rel"] < 1e-5 for output in told["verification"]["outputs"])


@pytest.mark.slow
def test_the_command_is_quiet(stored: dict[str, Path], tmp_path: Path) -> None:
    done = process("compile", stored["saved_model"], "-o", tmp_path / "c.onnx", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    json.loads(done.stdout)


def test_masks_for_a_tensorflow_model(stored: dict[str, Path], tmp_path: Path) -> None:
    source = frontend.load(stored["keras"])
    convolved = {node.output[0] for node in source.graph.node if node.op_type == "Conv"}
    relu = next(node for node in source.graph.node if node.op_type == "Relu" and node.input[0] in convolved)
    masks = tmp_path / "masks.npz"
    np.savez(masks, **{relu.output[0]: np.array([1, 0, 1, 0, 0, 1, 1, 1])})
    compiled = tmp_path / "c.onnx"
    told = reported("compile", stored["keras"], "--masks", masks, "--align", "none", "-o", compiled)
    assert told["after"]["flops"] < told["before"]["flops"]
    assert maskc("verify", stored["keras"], compiled, "--masks", masks).exit_code == 0
    assert maskc("verify", stored["keras"], compiled).exit_code == 1


def test_a_wrong_conversion_is_told_apart_from_a_wrong_compilation(
    stored: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = convert._convert

    def wrong(source: Any, rearranged: bool) -> onnx.ModelProto:
        model = right(source, rearranged)
        (name, *_) = (tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2)
        return build.changed(model, name, lambda weight: weight * np.float32(1.01))

    monkeypatch.setattr(convert, "_convert", wrong)
    result = maskc("compile", stored["keras"], "-o", tmp_path / "c.onnx")
    refused(result, 1, "TensorFlow", "tf2onnx converted the model wrongly")
    assert not (tmp_path / "c.onnx").exists()


def test_kinds_of_keras_models(keras: Any) -> None:
    layers = keras.layers

    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    own = Own()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    own(x)
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    named = keras.Model({"a": a, "b": b}, {"sum": layers.Add()([a, b]), "product": layers.Multiply()([a, b])})
    shared = layers.Dense(2, name="shared")
    twice = keras.Model([a, b], [shared(a), shared(b)])
    sequence = keras.Sequential([keras.Input((None, 4)), layers.Conv1D(3, 3), layers.GlobalMaxPooling1D()])

    out = build.run(model := to_onnx(own), **{model.graph.input[0].name: x})
    np.testing.assert_allclose(next(iter(out.values())), own(x), atol=1e-5)
    out = build.run(to_onnx(named), a=x, b=2 * x)
    np.testing.assert_allclose(out["sum"], 3 * x, atol=1e-5)
    np.testing.assert_allclose(out["product"], 2 * x * x, atol=1e-5)
    model = to_onnx(twice)
    assert len({item.name for item in model.graph.output}) == 2
    for got, wanted in zip(build.run(model, a=x, b=2 * x).values(), twice([x, 2 * x]), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    model = to_onnx(sequence)
    (steps,) = model.graph.input
    assert dims_of(steps) == ["batch", f"{steps.name}_1", 4] and dims_of(model.graph.output[0]) == ["batch", 3]
    for length in (5, 9):
        x = np.random.default_rng(length).normal(size=(2, length, 4)).astype(np.float32)
        out = build.run(model, **{model.graph.input[0].name: x})
        np.testing.assert_allclose(next(iter(out.values())), sequence(x), atol=1e-5)
    noted = to_onnx(keras.Sequential([keras.Input(batch_shape=(2, 4)), layers.Dense(3)]))
    assert dims_of(noted.graph.input[0]) == ["batch", 4]


@pytest.mark.slow
def test_maskc_layers_load_without_being_imported_first(keras: Any, tmp_path: Path) -> None:
    from maskc.train import MaskLayer

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), MaskLayer(), keras.layers.Dense(2)])
    model.save(tmp_path / "m.keras")
    done = process("compile", tmp_path / "m.keras", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verification"]["passed"] is True


def test_damaged_models(tmp_path: Path, stored: dict[str, Path]) -> None:
    (tmp_path / "bad.keras").write_bytes(b"not a zip archive")
    with zipfile.ZipFile(tmp_path / "photos.keras", "w") as archive:
        archive.writestr("a.jpg", "x")
    whole = stored["keras"].read_bytes()
    (tmp_path / "tail.keras").write_bytes(whole.replace(b"PK\1\2", b"PK\1\3"))
    for name in ("bad.keras", "photos.keras", "tail.keras"):
        refused(maskc("compile", tmp_path / name), 2, f"{name} is not a .keras file")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "saved_model.pb").write_bytes(b"nonsense")
    refused(maskc("compile", tmp_path / "bad"), 2, "SavedModel")
    (tmp_path / "half.keras").write_bytes(whole[:-200])
    refused(maskc("compile", tmp_path / "half.keras"), 2, "half.keras")


def test_a_layer_of_ones_own_is_named_and_found_in_a_file_of_rules(keras: Any, tmp_path: Path) -> None:
    code = (
        "import keras\n@keras.saving.register_keras_serializable('mine')\nclass Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n        return x + x\n"
    )
    (tmp_path / "layers.py").write_text(code)
    model, rules, small = tmp_path / "own.keras", tmp_path / "layers.py", tmp_path / "small.onnx"
    namespace: dict[str, Any] = {"__name__": "layers"}
    exec(code, namespace)
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Dense(2)(namespace["Twice"]()(x))).save(model)
    known = keras.saving.get_custom_objects()
    for words in (("compile", model, "-o", small), ("verify", model, small)):
        known.pop("mine>Twice")  # as a process that begins
        refused(maskc(*words), 2, "Could not locate class 'Twice'", "--rules")
        succeeded(*words, "--rules", rules)
    known.pop("mine>Twice")


def test_weights_without_numbers_are_no_fault_of_the_conversion(keras: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])
    model.layers[0].kernel.assign(np.full((4, 3), np.nan))
    model.save(tmp_path / "nan.keras")
    done = maskc("compile", tmp_path / "nan.keras")
    assert "tf2onnx" not in done.stderr and "NaN" in done.stderr


def test_nothing_but_rounding_is_left_of_a_mean_behind_a_normalisation_over_the_batch(keras: Any) -> None:
    from maskc.train import MaskLayer

    layers, mask, x = keras.layers, MaskLayer(), keras.Input((8, 8, 3))
    normal = layers.BatchNormalization()(mask(layers.Conv2D(8, 3)(x)), training=True)
    y = layers.Dense(4)(layers.GlobalAveragePooling2D()(normal))
    mask.mask.assign(np.tile([1.0, 0.0], 4))
    found = compile(keras.Model(x, y)).report.verification
    assert found is not None and {o.against for o in found.outputs if o.passed} == {"ONNX Runtime", "TensorFlow"}


def test_code_in_a_keras_file_is_not_run(keras: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    refused(maskc("compile", tmp_path / "m.keras"), 2, "Lambda")
