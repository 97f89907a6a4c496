"""`.keras` files that `maskc prune` makes smaller: they stay what they are, or it says before the search why not."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskc.pruning.choice import targets
from maskc.pruning.keras_model import KerasModel
from maskc.pruning.options import PruneOptions
from maskc.pruning.prune import pruned_file
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from tests.maskc.command import files, refused, reported, succeeded
from tests.maskc.command import maskc as command
from tests.maskc.pruning.networks import drawn


def keras_model(kind: str) -> Any:
    """With half of the channels of hidden layers following from the others, but where they are recurrent."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)

    def twice(layer: Any, x: Any, *after: Any) -> Any:
        """What a layer makes, and the same again, with other biases, as one layer."""
        y = layer(x)
        for variable in layer.weights:
            half = np.array_split(np.asarray(variable), 2, axis=-1)[0]
            variable.assign(np.concatenate([half, half], axis=-1))
        return functools.reduce(lambda y, step: step(y), after, y)

    keras.utils.set_random_seed(0)
    if kind == "convolutions":
        x = inputs = keras.Input((9, 9, 2))
        x = twice(layers.Conv2D(16, 3, use_bias=False), x, layers.BatchNormalization(), layers.ReLU())
        x = layers.DepthwiseConv2D(3)(x)
        block = keras.Input((5, 5, 16))
        y = twice(layers.Conv2D(32, 1, name="inside"), block, layers.ReLU())
        x = keras.Model(block, layers.Conv2DTranspose(8, 2, strides=2)(y), name="block")(x)
        x = layers.Flatten()(layers.MaxPooling2D(5)(x))
    elif kind == "depthwise":
        x = inputs = keras.Input((9, 9, 2))
        biased: dict[str, Any] = {"activation": "relu", "bias_initializer": "random_normal"}
        x = twice(layers.SeparableConv2D(16, 3, padding="same", depth_multiplier=2, **biased), x)
        separable = layers.SeparableConv2D(16, 3, depth_multiplier=2, use_bias=False)
        x = twice(separable, x, layers.BatchNormalization(), layers.ReLU())
        x = twice(layers.DepthwiseConv2D(3, depth_multiplier=2, **biased), x)
        x = layers.SeparableConv1D(16, 3, **biased)(layers.Reshape((25, 32))(x))
        x = layers.Flatten()(x)
    elif kind == "one channel":  # which a trial of its layers is not to remove
        x = inputs = keras.Input((9, 9, 1))
        separable = layers.SeparableConv2D(16, 3, bias_initializer="random_normal")
        x = layers.Flatten()(layers.ReLU()(separable(x)))
        for variable in separable.weights[1:]:
            variable.assign(np.tile(np.asarray(variable)[..., :8], 2))
    elif kind == "recurrent":
        x = inputs = keras.Input((7, 4))
        x = layers.GRU(16, return_sequences=True)(x)
        x = layers.LSTM(16)(x)
    elif kind == "sequential":
        hidden = layers.Dense(64, activation="relu")
        model = keras.Sequential([keras.Input((6,)), hidden, layers.Dense(3)])
        twice(hidden, keras.Input((6,)))
        return model
    else:
        x = inputs = keras.Input((8, 8))
        x = layers.Dense(16)(x)
        x = x + layers.MultiHeadAttention(4, 8, bias_initializer="random_normal")(x, x)
        y = twice(layers.Dense(64, activation="relu"), layers.LayerNormalization()(x))
        x = layers.GlobalAveragePooling1D()(x + layers.Dense(16)(y))
    model = keras.Model(inputs, layers.Dense(3)(x))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            half = np.random.default_rng(0).uniform(0.5, 2, (4, 8))
            layer.set_weights(list(np.tile(half, (1, 2))))
    return model


def saved(model: Any, x: Any, directory: Path) -> list[Any]:
    """The words of `maskc prune` for a Keras model and inputs, which are saved in a directory, as small.keras will."""
    model.save(directory / "model.keras")
    np.save(directory / "x.npy", x)
    return ["prune", directory / "model.keras", "--data", directory / "x.npy", "-o", directory / "small.keras"]


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("convolutions", 0.55),
        ("depthwise", 0.55),
        ("one channel", 0.6),
        ("recurrent", 0.5),
        ("sequential", 0.5),
        ("attention", 0.25),
    ],
)
def test_a_keras_model_stays_one(kind: str, share: float, tmp_path: Path) -> None:
    import keras

    model = keras_model(kind)
    x, small = drawn(200, *model.input_shape[1:]), tmp_path / "small.keras"
    given = (*saved(model, x, tmp_path), "--flops", share)
    report = reported(*given)
    assert report["after"]["flops"] <= 1.04 * share * report["before"]["flops"]
    assert not any("missed" in warning for warning in report["warnings"])
    loaded = keras.models.load_model(small)
    assert loaded.count_params() < 0.7 * model.count_params()
    graphs = [keras.Model(each.inputs, each.outputs) for each in (loaded, model)]  # a Sequential tells no input layer
    names = [{layer.name for layer in each.layers if not layer.name.endswith("_channels")} for each in graphs]
    assert names[0] == names[1]  # but for layers that pick channels
    picks = any(layer.name.endswith("_channels") for layer in graphs[0].layers)
    assert picks == any("SelectChannels layers: import maskc.train" in warning for warning in report["warnings"])
    expected, found = (np.asarray(each(x), float) for each in (model, loaded))
    spread = np.sqrt(expected.var(axis=0).mean())
    error = np.sqrt(np.square(expected - found).mean()) / spread
    assert 0.5 * error < report["agreement"][0]["error"] < 2 * error < 0.8
    trained = reported(*given, "--epochs", "20")
    assert trained["after"]["flops"] == report["after"]["flops"]
    after = np.asarray(keras.models.load_model(small)(x), float)
    closer = np.sqrt(np.square(expected - after).mean()) / spread
    # few samples of noise, on which training may make nothing better: then the untrained weights are back
    kept = any("untrained one is kept" in warning for warning in trained["warnings"])
    assert closer == pytest.approx(error) if kept else closer < error


def model_of_parts(kind: str) -> Any:
    """One whose layers lie in others, are called more than once, or have channels along several axes."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    biased: dict[str, Any] = {"bias_initializer": "random_normal"}
    relu: dict[str, Any] = {"activation": "relu", **biased}
    if kind == "directions":
        x = inputs = keras.Input((4, 3))
        x = layers.Bidirectional(layers.LSTM(16, return_sequences=True, **biased), name="first")(x)
        x = layers.Bidirectional(layers.GRU(16, **biased), merge_mode="sum", name="second")(x)
    elif kind == "inputs":
        x = inputs = keras.Input((5, 6))
        x = layers.Normalization(mean=range(6), variance=range(1, 7))(x)
        x = layers.Dense(16, name="first", **relu)(x)
        q, k, v = (layers.Dense(16, name=n, **biased)(x) for n in "qkv")
        x = layers.GlobalAveragePooling1D()(layers.Attention()([q, v, k]))
    elif kind == "heads":
        inputs = keras.Input((5, 8))
        x = layers.Dense(8, **biased)(inputs)
        q, k, v = (
            layers.EinsumDense("abc,cde->abde", (None, 2, 8), bias_axes="de", name=n, **biased)(x) for n in "qkv"
        )
        mixed = ops.einsum("ahqk,akhd->aqhd", ops.softmax(ops.einsum("aqhd,akhd->ahqk", q, k)), v)
        x = layers.EinsumDense("abde,dec->abc", (None, 8), bias_axes="c", name="o", **biased)(mixed)
        x = layers.GlobalAveragePooling1D()(x)
    elif kind == "calls":
        block = keras.Input((6, 6, 2))
        x = layers.Conv2D(8, 3, name="inside", **relu)(block)
        x = layers.BatchNormalization()(layers.Conv2D(16, 3, use_bias=False, name="within")(x))
        tower = keras.Model(block, layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
        inputs = [keras.Input((6, 6, 2), name=name) for name in ("left", "right")]
        shared = layers.Dense(16, "tanh", name="shared")
        x = ops.abs(shared(tower(inputs[0])) - shared(tower(inputs[1])))
    else:
        x = inputs = keras.Input((3, 6, 6, 2))
        for name in ("first", "second"):
            x = layers.TimeDistributed(layers.Conv2D(16, 3, **relu), name=name)(x)
        x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("kind", "smaller"),
    [
        ("directions", ("first", "second")),
        ("inputs", ("first", "q", "v")),
        ("heads", "qkvo"),
        ("calls", ("inside", "within", "shared")),
        ("steps", ("first", "second")),
    ],
)
def test_layers_of_layers_and_layers_that_are_called_twice_lose_channels(
    kind: str, smaller: Sequence[str], tmp_path: Path
) -> None:
    import keras

    from maskc.train.keras_internals import all_layers

    model = model_of_parts(kind)
    path, small = tmp_path / "model.keras", tmp_path / "small.keras"
    model.save(path)
    names = [tensor.name for tensor in PruneOptions().read(path).model.graph.input]
    shapes = zip(names, (value.shape[1:] for value in model.inputs), strict=True)
    given: dict[str, Any] = {name: drawn(60 + n, *shape)[n:] for n, (name, shape) in enumerate(shapes)}
    np.savez(tmp_path / "x.npz", **given)
    pruned = pruned_file(path, str(tmp_path / "x.npz"), small, PruneOptions(flops=0.4))
    assert not any("missed" in warning for warning in pruned.report.warnings)
    loaded = keras.models.load_model(small)
    before, after = ({layer.name: layer.count_params() for layer in all_layers(each)} for each in (model, loaded))
    assert all(after[name] < 0.8 * before[name] for name in smaller), (before, after)
    found = np.asarray(loaded([given[name] for name in names]))
    expected = next(iter(OnnxRuntimeSession(pruned.model).run(given).values()))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def refused_model(why: str) -> Any:
    import keras
    from keras import layers

    def convolved(x: Any, *between: Any) -> Any:
        first = layers.Conv2D(16, 3, activation="relu", dtype="mixed_float16" if why == "precision" else "float32")
        steps = (first, *between, layers.Conv2D(16, 3, activation="relu"), layers.GlobalAveragePooling2D())
        return functools.reduce(lambda y, step: step(y), steps, x)

    if why == "units":
        x = inputs = keras.Input((5, 4))
        x = layers.Bidirectional(layers.GRU(16), merge_mode="mul")(x)
    elif why == "weights":

        class Transposed(layers.Layer):  # type: ignore[misc]
            def __init__(self, of: Any, **arguments: Any) -> None:
                super().__init__(**arguments)
                self.of = of

            def call(self, x: Any) -> Any:
                return keras.ops.matmul(x, keras.ops.transpose(self.of.kernel))

            def get_config(self) -> Any:
                return super().get_config() | {"of": keras.saving.serialize_keras_object(self.of)}

            @classmethod
            def from_config(cls, config: Any) -> Any:
                return cls(keras.saving.deserialize_keras_object(config.pop("of")), **config)

        keras.saving.register_keras_serializable("maskc_tests")(Transposed)
        inputs = keras.Input((6,))
        encoder = layers.Dense(16, activation="relu", name="encoder")
        x = Transposed(encoder, name="decoder")(layers.Dense(16, activation="relu")(encoder(inputs)))
    else:
        x = inputs = keras.Input((7, 7, 2))
        shared = layers.Conv2D(2, 1, name="shared", use_bias=False)
        if why == "calls":
            x = layers.BatchNormalization(gamma_initializer="random_normal")(shared(x))
            x = layers.BatchNormalization(gamma_initializer="random_normal")(shared(x))
        norm = layers.BatchNormalization(gamma_initializer="random_normal")
        factors = [layers.Rescaling(list(range(1, 17))), layers.Conv2D(16, 1, use_bias=False), norm]
        between = {"constant": [layers.Rescaling(2.0, -0.5)], "factor": factors}
        x = convolved(x, *between.get(why, ()))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("precision", "computes in float16 with weights in float32"),
        ("calls", "The layer 'shared' is called more than once, before different normalisations"),
        ("weights", "The layers 'encoder' and 'decoder' share the weight 'encoder/kernel', each in another way"),
        ("factor", "since a layer beside it, as a Rescaling or one of your own, is part of them"),
        ("constant", "as where a layer adds a constant before another"),
        ("units", "The Bidirectional 'bidirectional"),
    ],
)
def test_what_a_keras_model_cannot_hold_is_told_before_the_search(
    why: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets.Search, "found", lambda search: pytest.fail("searched"))
    model = refused_model(why)
    refused(command(*saved(model, drawn(40, *model.input_shape[1:]), tmp_path)), 2, told, "write .onnx")
    assert files(tmp_path) == ["model.keras", "x.npy"]


@pytest.mark.slow
@pytest.mark.tensorflow
def test_bytes_are_of_onnx_files(tmp_path: Path) -> None:
    words = saved(keras_model("sequential"), drawn(40, 6), tmp_path)
    refused(command(*words, "--size", "0.5"), 2, "A .keras file holds more than weights: give --params")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_no_constants_are_restored_of_channels_that_nothing_reads(tmp_path: Path) -> None:
    """The graph adds the bias of a Conv1D behind a Squeeze, where refitting has another."""
    import keras
    from keras import layers

    x = inputs = keras.Input((12, 2))
    for name in ("first", "second"):
        x = layers.Conv1D(16, 3, padding="causal", activation="relu", bias_initializer="ones", name=name)(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling1D()(x)))
    succeeded(*saved(model, drawn(80, 12, 2), tmp_path), "--flops", "0.5")
    first, second = (keras.models.load_model(tmp_path / "small.keras").get_layer(name) for name in ("first", "second"))
    assert second.kernel.shape[1] == first.filters < 16


@pytest.mark.slow
@pytest.mark.tensorflow
def test_constants_before_pooling_stay_in_a_keras_model(tmp_path: Path) -> None:
    """What a group makes whose inputs are gone; nothing reads it in the graph, where it is known."""
    import keras
    from keras import layers

    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, activation="relu")(x)
    x = layers.Conv2D(16, 3, groups=4, activation="relu", bias_initializer="random_normal")(x)
    x = layers.Conv2D(16, 3, activation="relu")(layers.AveragePooling2D(2)(layers.UpSampling2D()(x)))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    succeeded(*saved(model, drawn(80, 8, 8, 3), tmp_path), "--flops", "0.5")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_units_of_a_gru_go_with_both_of_their_biases(tmp_path: Path) -> None:
    import keras
    from keras import layers

    x = inputs = keras.Input((7, 4))
    x = layers.GRU(16, bias_initializer="random_normal", name="first")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    succeeded(*saved(model, drawn(80, 7, 4), tmp_path), "--flops", "0.5")
    assert keras.models.load_model(tmp_path / "small.keras").get_layer("first").units < 16


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_keras_model_that_needs_no_pruning_is_shrunk(tmp_path: Path) -> None:
    import keras
    from keras import layers

    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(64, activation="relu", name="hidden")(inputs)))
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(np.where(np.arange(64) < 8, hidden.kernel, 0))
    assert "so nothing was pruned" in succeeded(*saved(model, drawn(80, 6), tmp_path), "--flops", "0.5").stderr
    assert keras.models.load_model(tmp_path / "small.keras").get_layer("hidden").units == 8


@pytest.mark.slow
@pytest.mark.tensorflow
def test_what_layers_of_ones_own_keep_is_not_pruned_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More pruning hardly brings them nearer to a target, and ended only where there was no channel left."""
    import keras
    from keras import layers

    @keras.saving.register_keras_serializable("maskc_tests")
    class Linear(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.matrix = self.add_weight(shape=(shape[-1], 256), name="matrix")

        def call(self, x: Any) -> Any:
            return x @ self.matrix

    rounds, smaller = [], KerasModel.smaller
    monkeypatch.setattr(KerasModel, "smaller", lambda *given: rounds.append(1) or smaller(*given))
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    for filters in (16, 8):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(8)(Linear()(layers.Flatten()(x))))
    report = reported(*saved(model, drawn(160, 8, 8, 3), tmp_path), "--flops", "0.5")
    assert any("was missed" in told and told.endswith("write .onnx.") for told in report["warnings"])
    assert len(rounds) < 8
