"""Keras models as people build them, of all kinds of layers, each with masks and a `PruningOptimizer`."""

from typing import Any

import keras
from keras import layers, ops

from maskc.train import MaskLayer, apply_mask, prunable
from tests.maskc.train.ways_to_train import (
    Trained,
    compiled,
    dense,
    mlp,
    numbers,
    pruning,
    refused,
    structure,
)


@structure
def a_nested_model() -> Trained:
    inputs = keras.Input((8,))
    inner = mlp()
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(MaskLayer()(dense()(inner(dense(8)(inputs))))))))


@structure
def nested_sequences() -> Trained:
    inner = keras.Sequential([dense(), MaskLayer(), keras.Sequential([dense(), MaskLayer()])])
    return Trained(compiled(keras.Sequential([keras.Input((8,)), inner, layers.Dense(2)])), *numbers())


@structure
def a_sequence_without_an_input() -> Trained:
    model = keras.Sequential([dense(), MaskLayer(), dense(), MaskLayer(), layers.Dense(2)])
    return Trained(compiled(model), *numbers())


@structure
def shared_layers() -> Trained:
    first, second = keras.Input((8,)), keras.Input((8,))
    shared, further = dense(name="shared"), dense(name="further")
    sides = [MaskLayer(groups="one")(further(MaskLayer(groups="two")(shared(x)))) for x in (first, second)]
    return Trained(compiled(keras.Model([first, second], layers.Dense(2)(layers.Concatenate()(sides)))))


@structure
def a_shared_model() -> Trained:
    inputs = keras.Input((8,))
    tower = keras.Model(inputs, dense(name="last")(dense()(inputs)), name="tower")
    sides = [keras.Input((8,)) for _ in range(2)]
    joined = dense(32, name="joined")(layers.Concatenate()([tower(x) for x in sides]))
    model = prunable(keras.Model(sides, layers.Dense(2)(joined)))
    return Trained(compiled(model, optimizer=pruning(flops_target=0.8)))


@structure
def a_frozen_backbone() -> Trained:
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.ReLU(), MaskLayer(name="cold")])
    backbone.trainable = False
    x = layers.GlobalAveragePooling2D()(backbone(inputs, training=False))
    return Trained(
        compiled(
            keras.Model(inputs, layers.Dense(2)(MaskLayer(name="warm")(dense(32)(x)))),
            optimizer=pruning(flops_target=0.99),
        )
    )


@structure
def layers_frozen_one_by_one() -> Trained:
    model = prunable(keras.Sequential([keras.Input((8,)), dense(name="cold"), dense(), layers.Dense(2)]))
    model.get_layer("cold").trainable = False
    return Trained(compiled(model))


@structure
def an_application_with_a_head() -> Trained:
    backbone = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None, pooling="avg")
    inputs = keras.Input((32, 32, 3))
    model = prunable(keras.Model(inputs, layers.Dense(2)(backbone(layers.Rescaling(1 / 127)(inputs)))))
    return Trained(compiled(model, optimizer=pruning(schedule="linear", ramp=10)))


@structure
def recurrent() -> Trained:
    inputs = keras.Input((6, 5))
    x = MaskLayer()(layers.LSTM(8, return_sequences=True)(MaskLayer()(dense(16)(inputs))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GRU(8)(MaskLayer()(dense(16)(x)))))))


@structure
def cells() -> Trained:
    inputs = keras.Input((6, 5))
    x = layers.RNN([layers.LSTMCell(6), layers.GRUCell(6)])(MaskLayer()(dense(16)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(MaskLayer()(dense(16)(x))))
    return Trained(compiled(model, optimizer=pruning(flops_target=0.8)))


@structure
def an_encoder() -> Trained:
    inputs = keras.Input((6, 16))
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(4, 4)(inputs, inputs))
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, "gelu")(x)))
    return Trained(compiled(prunable(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))))


def _tokens() -> tuple[Any, Any]:
    inputs = keras.Input((7,), dtype="int32")
    return inputs, layers.Embedding(20, 12, mask_zero=True)(inputs)


@structure
def padded_into_a_recurrence() -> Trained:
    inputs, x = _tokens()
    x = layers.LSTM(8)(MaskLayer()(dense(16)(MaskLayer()(x))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(x))))


@structure
def padded_into_every_step() -> Trained:
    inputs, x = _tokens()
    x = layers.TimeDistributed(dense(16))(MaskLayer()(x))
    x = layers.TimeDistributed(layers.Dense(8))(MaskLayer()(x))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))))


@structure
def padded_into_a_nested_model() -> Trained:
    inputs, x = _tokens()
    inside = keras.Input((7, 12))
    y = layers.GRU(8)(MaskLayer()(dense(16)(inside)))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(keras.Model(inside, y)(MaskLayer()(x))))))


@structure
def padded_into_attention() -> Trained:
    inputs, x = _tokens()
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(3, 4)(x, x))
    x = layers.Dense(12)(layers.Dense(24, "relu")(x))
    return Trained(compiled(prunable(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))))


@structure
def a_network_at_every_step() -> Trained:
    inputs = keras.Input((5, 8, 8, 3))
    frame = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 3, activation="relu"), layers.GlobalMaxPooling2D()]
    )
    x = MaskLayer()(dense(16)(layers.GRU(8)(MaskLayer()(layers.TimeDistributed(frame)(inputs)))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(x)), optimizer=pruning(flops_target=0.8)))


@structure
def low_rank_updates() -> Trained:
    model = prunable(keras.Sequential([keras.Input((8,)), dense(name="a"), dense(name="b"), layers.Dense(2, name="c")]))
    for name in "abc":
        model.get_layer(name).enable_lora(2)
    return Trained(compiled(model))


@structure
def low_rank_embeddings_and_convolutions() -> Trained:
    inputs, x = _tokens()
    inputs.name = "tokens"
    embedding = layers.Embedding(20, 12)
    x = layers.Conv1D(8, 3, activation="relu", lora_rank=2)(MaskLayer()(embedding(inputs)))
    x = layers.EinsumDense("abc,cd->abd", (None, 8), activation="relu")(MaskLayer()(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling1D()(MaskLayer()(x))))
    embedding.enable_lora(2)
    return Trained(compiled(model))


@structure
def several_inputs_and_outputs() -> Trained:
    image, number = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="number")
    x = layers.GlobalAveragePooling2D()(MaskLayer()(layers.Conv2D(8, 3, activation="relu")(image)))
    x = MaskLayer()(dense(16)(layers.Concatenate()([x, dense()(number)])))
    outputs = {"left": layers.Dense(2, name="left")(x), "right": layers.Dense(3, name="right")(x)}
    model = keras.Model({"image": image, "number": number}, outputs)
    losses = {"left": "mse", "right": "mae"}
    return Trained(compiled(model, losses, loss_weights={"left": 1.0, "right": 0.5}, metrics={"left": ["mae"]}))


@structure
def nested_inputs_and_preprocessing() -> Trained:
    image, bins = keras.Input((10, 10, 3), name="image"), keras.Input((4,), name="bins")
    x = layers.CenterCrop(8, 8)(layers.RandomFlip()(layers.Rescaling(1 / 255)(image)))
    x = layers.GlobalAveragePooling2D()(MaskLayer()(layers.Conv2D(8, 3, activation="relu")(x)))
    y = layers.Flatten()(layers.Embedding(4, 3)(layers.Discretization([-1.0, 0.0, 1.0])(bins)))
    x = MaskLayer()(dense(16)(layers.Concatenate()([x, y])))
    return Trained(compiled(keras.Model({"seen": {"image": image}, "rest": [bins]}, layers.Dense(2)(x))))


@structure
def recurrent_images() -> Trained:
    inputs = keras.Input((3, 8, 8, 3))
    x = MaskLayer()(layers.TimeDistributed(layers.SpectralNormalization(layers.Conv2D(12, 3)))(inputs))
    x = MaskLayer()(layers.Conv2D(32, 3, activation="relu")(MaskLayer()(layers.ConvLSTM2D(8, 3)(x))))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    return Trained(compiled(model, optimizer=pruning(flops_target=0.95)))


@structure
def losses_of_layers() -> Trained:
    inputs = x = keras.Input((8,))
    for _ in range(2):
        x = MaskLayer()(dense(kernel_regularizer="l2", activity_regularizer=keras.regularizers.L1(1e-3))(x))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2, kernel_constraint="max_norm")(x))))


@keras.saving.register_keras_serializable("structures")
class Block(layers.Layer):
    """A layer around others, with a mask."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.wide, self.mask, self.narrow = dense(2 * units), MaskLayer(), layers.Dense(units)

    def call(self, x: Any) -> Any:
        return x + self.narrow(self.mask(self.wide(x)))

    def get_config(self) -> Any:
        return {**super().get_config(), "units": self.units}


@structure
def blocks() -> Trained:
    inputs = keras.Input((8,))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(Block(8)(Block(8)(inputs))))))


@keras.saving.register_keras_serializable("structures")
class Subclass(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.mask, self.last = dense(32), MaskLayer(), layers.Dense(2)

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.last(self.mask(self.first(x)))


@refused("shrink needs a functional or Sequential model .* `maskc compile` takes what model.export")
def a_subclass() -> Trained:
    return Trained(compiled(Subclass()), *numbers())


@structure
def masks_as_functions() -> Trained:
    inputs = keras.Input((8,))
    x = ops.relu(layers.Dense(16)(apply_mask(ops.gelu(layers.Dense(16)(inputs)))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(apply_mask(x)))))


@structure
def kinds_of_convolutions() -> Trained:
    inputs = keras.Input((8, 8, 3))
    x = MaskLayer()(layers.Conv2D(8, 1, activation="relu")(inputs))
    x = MaskLayer()(layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))))
    x = MaskLayer()(layers.SeparableConv2D(8, 3, activation="relu")(x))
    x = MaskLayer()(layers.Conv2D(8, 3, groups=4, activation="relu")(x))
    x = MaskLayer()(layers.Conv2DTranspose(6, 2, activation="relu")(x))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))))


@structure
def normalised_weights() -> Trained:
    inputs = keras.Input((8,))
    x = MaskLayer()(layers.SpectralNormalization(dense(16))(inputs))
    x = MaskLayer()(layers.UnitNormalization()(dense(16)(x)))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GaussianNoise(0.1)(x)))))
