"""Masks that are put into a model stand where it can shrink, and change nothing until they are pruned."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import maskc
from maskc.errors import InputError
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.train import MaskLayer, computational_cost, prunable, shrink
from maskc.train.mask_layer import mask_layers
from tests.maskc.train.shrinking.networks import data


def residual() -> Any:
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = stem = layers.ReLU(name="stem_relu")(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="inner")(x)
    x = layers.Conv2D(8, 3, padding="same", name="back")(x)
    x = layers.Activation("swish", name="joined")(layers.Add(name="sum")([x, stem]))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Dense(16, activation="gelu", name="hidden")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x))


def names(model: Any) -> list[str]:
    return [layer.name for layer in mask_layers(model)]


def randomised(model: Any) -> Any:
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 1, weight.shape) * rng.choice([-1, 1] if "kernel" in weight.path else [1]))
    return model


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("activation", ["stem_relu", "inner", "depthwise", "hidden"]),
        ("layer", ["stem", "inner", "back", "depthwise", "hidden"]),
        (lambda layer: isinstance(layer, layers.Add), ["sum"]),
    ],
)
def test_masks_stand_where_they_are_asked_for_and_channels_can_go(after: Any, expected: list[str]) -> None:
    assert names(prunable(residual(), after)) == [f"{name}_mask" for name in expected]


def chain(*between: Any) -> Any:
    """A convolution with an activation, these layers, a convolution."""
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    for layer in between:
        x = layer(x)
    x = layers.Conv2D(4, 1, activation="relu", name="next")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def depthwise(**options: Any) -> Any:
    return layers.DepthwiseConv2D(3, **{"activation": "relu", "padding": "same", "name": "depthwise", **options})


@pytest.mark.parametrize(
    "between",
    [
        [depthwise()],
        [layers.ZeroPadding2D(), layers.BatchNormalization(), depthwise()],
        [depthwise(activation=None, name="mixing"), layers.BatchNormalization(), layers.ReLU(name="depthwise")],
        [layers.MaxPooling2D(), layers.Activation("swish", name="depthwise")],
    ],
)
def test_one_mask_where_a_later_one_takes_the_same_channels(between: list[Any]) -> None:
    """And no more is left than a mask before would leave, after whose zeros a padding makes edges."""
    original = randomised(chain(*between))
    model = prunable(original)
    assert names(model) == ["depthwise_mask", "next_mask"]
    mask_layers(model)[0].mask.assign([1, 0] * 4)
    alone = computational_cost(model).flops()
    before = prunable(original, after=lambda layer: layer.name in ("first", "next"))
    mask_layers(before)[0].mask.assign([1, 0] * 4)
    assert alone <= computational_cost(before).flops()


@pytest.mark.parametrize(
    "between",
    [
        [depthwise(depth_multiplier=2)],
        [layers.BatchNormalization(axis=1), depthwise()],
        [layers.LayerNormalization(), depthwise()],
        [layers.Conv2D(8, 3, activation="relu", name="depthwise")],
        [lambda x: layers.Concatenate()([depthwise()(x), x])],
    ],
)
def test_two_masks_where_channels_are_not_the_same_or_others_read_them_as_well(between: list[Any]) -> None:
    assert names(prunable(chain(*between))) == ["first_mask", "depthwise_mask", "next_mask"]


def same(model: Any) -> Any:
    """A copy with masks, which computes the same."""
    copy, x = prunable(model), data(model)
    expected, found = (keras.tree.flatten(each.predict(x, verbose=0)) for each in (model, copy))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5)
    return copy


def test_the_copy_has_weights_of_its_own() -> None:
    model = randomised(residual())
    copy = same(model)
    expected = model.predict(data(model), verbose=0)
    for weight in copy.weights:
        weight.assign(weight * 0)
    np.testing.assert_array_equal(model.predict(data(model), verbose=0), expected)


def test_what_is_pruned_there_goes_when_it_is_compiled(tmp_path: Any) -> None:
    model = prunable(randomised(residual()))
    for layer in mask_layers(model):
        layer.mask.assign([1, 0] * (layer.mask.shape[0] // 2))
    model.save(tmp_path / "model.keras")
    compiled = maskc.compile(tmp_path / "model.keras", align="none", verify=False)
    assert compiled.report.after.flops == computational_cost(model).flops()
    assert compiled.report.reduction > 3
    assert not compiled.report.held


def test_a_mask_gives_way_to_a_layer_of_its_name() -> None:
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="dense_mask")(layers.Dense(6, "relu", name="dense")(inputs))
    (mask,) = mask_layers(prunable(keras.Model(inputs, x)))
    assert mask.name.startswith("dense_mask") and mask.name != "dense_mask"


def test_a_sequence_without_an_input_is_told_so() -> None:
    with pytest.raises(InputError, match=r"Begin it with a keras\.Input\."):
        prunable(keras.Sequential([layers.Dense(4, "relu"), layers.Dense(2)]))


def test_models_inside_of_models() -> None:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(6)], name="inner")
    twice = keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu"), layers.Dense(6)], name="twice")
    inputs = keras.Input((6,))
    x = twice(twice(inner(inputs)))
    model = randomised(keras.Model(inputs, layers.Dense(2)(layers.ReLU(name="last")(x))))
    copy = same(model)
    assert len(names(copy)) == 3
    assert all(len(names(copy.get_layer(name))) == 1 for name in ("inner", "twice"))


def test_a_layer_that_is_called_twice_has_two_masks() -> None:
    shared = layers.Dense(6, activation="relu", name="shared")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(1)(shared(shared(inputs))))
    assert names(prunable(model)) == ["shared_mask", "shared_mask_2"]


@pytest.mark.parametrize("kind", [layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU])
def test_activations_that_are_layers(kind: Any) -> None:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5), kind(name="function"), layers.Dense(2)])
    assert names(prunable(model)) == ["function_mask"]


@pytest.mark.parametrize("function", ["silu", "sigmoid", "gelu"])
def test_a_gate_takes_the_channels_of_what_it_is_multiplied_with(function: str) -> None:
    inputs = keras.Input((6,))
    gate = layers.Dense(8, activation=function, name="gate")(inputs)
    model = prunable(keras.Model(inputs, layers.Dense(2)(gate * layers.Dense(8)(inputs))))
    assert names(model) == ["gate_mask"]
    before = computational_cost(model).flops()
    mask_layers(model)[0].mask.assign([1, 0] * 4)
    assert computational_cost(model).flops() < 0.6 * before


def test_operations_and_several_inputs_and_outputs() -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((5, 3), name="right")
    x = ops.relu(layers.Dense(7)(left))
    y = layers.LSTM(6, name="memory")(right)
    z = layers.Concatenate()([x, y])
    model = randomised(keras.Model([left, right], {"z": layers.Dense(2)(z), "y": layers.Activation("tanh")(y)}))
    copy = same(model)
    assert set(names(copy)) == {"relu_mask", "memory_mask"} and set(copy.output) == {"z", "y"}


def test_what_a_layer_has_learned_without_training_is_copied() -> None:
    normalise = layers.Normalization()
    normalise.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(8, activation="relu")(normalise(inputs))))
    same(model)


@keras.saving.register_keras_serializable("insert_masks")
class Tied(layers.Layer):  # type: ignore[misc]
    """Multiplies by the transposed kernel of another layer."""

    def __init__(self, other: Any, as_it_is: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.other, self.as_it_is = other, as_it_is

    def call(self, x: Any) -> Any:
        return x @ ops.transpose(self.other.kernel)

    def get_config(self) -> Any:
        other = self.other if self.as_it_is else keras.saving.serialize_keras_object(self.other)
        return {**super().get_config(), "other": other, "as_it_is": self.as_it_is}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        other = config["other"]
        return cls(
            **{**config, "other": keras.saving.deserialize_keras_object(other) if isinstance(other, dict) else other}
        )


def tied(**options: Any) -> Any:
    inputs = keras.Input((6,))
    first = layers.Dense(8, activation="relu", name="first")
    x = layers.Dense(8, activation="relu")(layers.Dense(12, activation="relu")(first(inputs)))
    return keras.Model(inputs, Tied(first, name="back", **options)(x))


def at_steps(first: bool) -> Any:
    """A layer and a model that are called as they are and at each step, this before or after that."""
    inputs = keras.Input((6,))
    x, both = layers.RepeatVector(3)(inputs), layers.Dense(6, activation="relu", name="both")
    each = layers.TimeDistributed(both)(x) if first else layers.RepeatVector(3)(both(inputs))
    other = layers.RepeatVector(3)(both(inputs)) if first else layers.TimeDistributed(both)(x)
    frame = keras.Sequential([keras.Input((6,)), layers.Dense(6, activation="relu"), layers.Dense(4)])
    x = layers.Dense(9, activation="relu")(layers.Flatten()(layers.Concatenate()([each, other])))
    y = layers.Flatten()(layers.TimeDistributed(frame)(each))
    return keras.Model(inputs, [layers.Dense(2)(x), y, frame(inputs)])


@pytest.mark.parametrize("make", [tied, lambda: at_steps(True), lambda: at_steps(False)])
def test_layers_that_share_weights_share_them_in_copies(make: Any) -> None:
    model = randomised(make())
    copy = same(model)
    trained = [weight for weight in copy.trainable_variables if not weight.path.endswith("probe")]
    assert len(trained) == len(model.trainable_variables)
    for mask in mask_layers(copy):
        mask.mask.assign(np.arange(mask.mask.shape[0]) % 2)
    small = shrink(copy)
    assert len(small.trainable_variables) == len(trained) and small.count_params() < model.count_params()


def test_layers_whose_copies_would_not_share_weights_are_named() -> None:
    model = tied(as_it_is=True)
    with pytest.raises(
        InputError, match=r"'first' and 'back' share the weight 'first/kernel', .* Put a MaskLayer into"
    ):
        prunable(model)
    with pytest.raises(InputError, match=r"'first' and 'back' share the weight .*\. `maskc compile` takes the model"):
        shrink(model)


def test_a_weight_that_a_call_is_given_is_named() -> None:
    """A copy would go on with that of the model."""
    inputs = keras.Input((5,))
    embedding = layers.Embedding(20, 6, name="words")
    x = layers.Dense(20)(MaskLayer()(layers.Dense(8, activation="relu")(embedding(inputs))))
    model = keras.Model(inputs, ops.matmul(x, embedding.embeddings))
    with pytest.raises(InputError, match=r"'matmul.*' is called with the weight 'words/embeddings', .*reads it in"):
        shrink(model)
    x = layers.Dense(20)(layers.Dense(8, activation="relu")(embedding(inputs)))
    with pytest.raises(InputError, match="is called with the weight 'words/embeddings'"):
        prunable(keras.Model(inputs, ops.matmul(x, embedding.embeddings)))


def test_frozen_layers_stay_frozen() -> None:
    model = residual()
    model.get_layer("stem").trainable = False
    copy = prunable(model)
    assert not copy.get_layer("stem").trainable
    assert copy.get_layer("inner").trainable


def test_behind_what_a_layer_applies_at_each_step() -> None:
    inputs = keras.Input((6, 8))
    x = layers.TimeDistributed(layers.Dense(7, activation="relu"), name="each")(inputs)
    x = layers.Bidirectional(layers.GRU(4), name="both")(x)
    assert names(prunable(keras.Model(inputs, layers.Dense(2)(x)))) == ["each_mask", "both_mask"]


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_masks_behind_quantised_layers_are_not_quantised() -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(6, activation="relu", dtype="mixed_bfloat16")(inputs)))
    model.quantize("int8")
    (mask,) = mask_layers(prunable(model))
    assert mask.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_masks_compute_in_the_precision_of_what_they_stand_behind(policy: str) -> None:
    inputs = keras.Input((8,))
    x = ops.relu(layers.Dense(6, activation="relu", dtype=policy)(inputs))
    model = prunable(keras.Model(inputs, layers.Dense(2, dtype=policy)(x)))
    assert [layer.compute_dtype for layer in mask_layers(model)] == [policy.removeprefix("mixed_")] * 2
    assert model.output.dtype == policy.removeprefix("mixed_")


def test_the_graph_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `prunable` looked at is what is counted, also where some masks were left out."""
    calls: list[Any] = []
    convert = TensorFlowModel.to_onnx
    monkeypatch.setattr(TensorFlowModel, "to_onnx", lambda self: calls.append(self) or convert(self))
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, activation="relu")(inputs)
    x = keras.layers.Dense(4, activation="relu")(x)
    last = keras.layers.Dense(3, activation="relu")(x)
    model = prunable(keras.Model(inputs, keras.layers.Rescaling(2.0)(last)))
    known = computational_cost(model)
    assert len(calls) == 1
    monkeypatch.setattr("maskc.train.masked_graph._known", {})
    fresh = computational_cost(model)
    assert len(calls) == 2
    assert known.flops() == fresh.flops() and known.names == fresh.names
    for name, savings in fresh.gradient().items():
        np.testing.assert_array_equal(known.gradient()[name], savings)


def test_masks_stand_on_the_channels_of_layers_that_have_them_first() -> None:
    inputs = keras.Input((3, 12, 12))
    x = layers.Conv2D(8, 3, data_format="channels_first")(inputs)
    x = stem = layers.ReLU(name="stem")(layers.BatchNormalization(axis=1)(x))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", data_format="channels_first", name="inner")(x)
    x = layers.ReLU(name="joined")(layers.Add()([x, stem]))
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    x = layers.Dense(6, activation="relu", name="hidden")(x)
    model = prunable(keras.Model(inputs, layers.Dense(2)(x)))
    found = {layer.name: (layer.axis, layer.mask.shape[0]) for layer in mask_layers(model)}
    assert found == {"stem_mask": (1, 8), "inner_mask": (1, 8), "joined_mask": (1, 8), "hidden_mask": (-1, 6)}
