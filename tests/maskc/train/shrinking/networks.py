"""Keras networks, some with masks of their own, and how to have half of the masks' entries zero."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.applications.convnext import LayerScale

from maskc.train import FeatureSpec, MaskLayer, RankerConfig, prunable, ranker
from maskc.train.mask_layer import mask_layers


def u_net() -> Any:
    inputs = x = keras.Input((32, 32, 3))
    kept = []
    for channels in (12, 16):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same")(x)))
        kept.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    for channels, other in zip((16, 12), kept[::-1], strict=True):
        x = layers.Conv2DTranspose(channels, 2, strides=2, padding="same", activation="relu")(x)
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(layers.Concatenate()([x, other]))
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


def vision_transformer() -> Any:
    inputs = keras.Input((32, 32, 3))
    x = layers.Reshape((16, 32))(layers.Conv2D(32, 8, strides=8)(inputs))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(y, y)])
        y = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(5)(x))


def grouped_queries() -> Any:
    inputs = x = keras.Input((16, 32))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.GroupQueryAttention(8, 6, 2)(y, y)])
        x = layers.Add()([x, layers.Dense(32)(layers.Dense(64, activation="gelu")(x))])
    return keras.Model(inputs, layers.Dense(5)(x))


def text() -> Any:
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 32)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    y = layers.Dense(32)(layers.Dropout(0.1)(layers.Dense(64, activation="gelu")(x)))
    x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(5)(x[:, 0]))


def recurrent() -> Any:
    inputs = x = keras.Input((32, 64, 1))
    for channels in (16, 24):
        x = layers.MaxPooling2D()(layers.Conv2D(channels, 3, padding="same", activation="relu")(x))
    x = layers.Reshape((16, 8 * 24))(layers.Permute((2, 1, 3))(x))
    x = layers.Dense(32, activation="relu")(x)
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(x)
    x = layers.Bidirectional(layers.GRU(16, return_sequences=True))(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def operations() -> Any:
    """Functions of `keras.ops` between layers, and reshapings that leave a size to be found."""
    ops = keras.ops
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, activation="relu")(ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0))))
    x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, 64, 12))
    x = layers.Reshape((8, -1, 16))(layers.Conv1D(16, 3, activation="relu")(x)[:, :48])
    x = layers.Conv2D(16, 3, activation="relu")(x)
    sides = [
        ops.mean(x, axis=(1, 2)),
        ops.max(x, axis=[1, 2]),
        ops.squeeze(ops.sum(x, axis=1, keepdims=True)[:, :, 0], 1),
    ]
    y = layers.Dense(16, activation="relu")(layers.Reshape((-1,))(x))
    x = layers.Concatenate()([*sides, y])
    x = ops.squeeze(layers.Conv1D(24, 1, activation="relu")(ops.expand_dims(x, 1)), axis=1)
    return keras.Model(inputs, layers.Dense(5)(x))


def padded_text() -> Any:
    """With masks of steps, which Keras passes on by itself, and layers that are called twice."""
    inputs = keras.Input((12,), dtype="int32")
    x = MaskLayer()(layers.Embedding(50, 16, mask_zero=True)(inputs))
    dense, attention = layers.Dense(16, activation="relu"), layers.MultiHeadAttention(2, 8)
    x = MaskLayer()(dense(MaskLayer()(dense(x))))
    x = layers.Add()([attention(x, x, use_causal_mask=True), attention(x, x)])
    x = layers.Concatenate()([layers.LSTM(8)(x), layers.GRU(8, go_backwards=True)(x)])
    return keras.Model(inputs, layers.Dense(3)(MaskLayer()(x)))


def recommender() -> Any:
    features = {name: {"kind": "categorical", "size": 50} for name in ("user", "item")}
    block = {"output_size": 32, "reduction_factor": 2.0, "input_layer_norm": True}
    config = {"mask_blocks": [block, block], "use_parallel": True, "mlp": {"layer_sizes": [16, 1]}}
    return ranker(RankerConfig(**config), FeatureSpec(features=features, label="liked"))


def kinds_of_convolutions() -> Any:
    inputs = keras.Input((24, 24, 3))
    x = layers.SeparableConv2D(16, 3, padding="same", activation="relu", depth_multiplier=2)(inputs)
    x = layers.SeparableConv2D(16, 3, activation="relu", use_bias=False)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    x = layers.Activation("relu6")(layers.BatchNormalization()(x))
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(32, 3, groups=4, activation="relu")(x))
    x = layers.LeakyReLU()(layers.GroupNormalization(24)(layers.Conv2D(24, 3, groups=8)(x)))
    x = layers.Dense(20, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(5)(x))


def sequences() -> Any:
    inputs = keras.Input((40, 6))
    x = layers.Conv1D(16, 5, padding="causal", activation="relu")(inputs)
    x = layers.Conv1D(16, 3, dilation_rate=2, padding="same", activation="elu")(x)
    x = layers.Conv1DTranspose(8, 3, strides=2)(layers.MaxPooling1D()(x))
    x = layers.LSTM(8)(layers.SpatialDropout1D(0.2)(layers.ReLU()(x)))
    return keras.Model(inputs, layers.Dense(2)(x))


def models_in_models() -> Any:
    def block(name: str) -> Any:
        inputs = keras.Input((None, None, 16))
        x = layers.Conv2D(12, 3, padding="same", activation="relu")(inputs)
        return keras.Model(inputs, layers.Conv2D(16, 3, padding="same", activation="relu")(x), name=name)

    inputs = keras.Input((16, 16, 3))
    x = block("second")(block("first")(layers.Conv2D(16, 3, activation="relu")(inputs)))
    x = keras.Sequential([layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(8, 1)], name="third")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalMaxPooling2D()(x)))


def called_twice() -> Any:
    inputs = keras.Input((16, 8))
    wide, narrow, relu = layers.Dense(24, activation="relu"), layers.Dense(8, activation="relu"), layers.ReLU()
    x = relu(MaskLayer()(narrow(MaskLayer()(wide(inputs)))))
    y = MaskLayer()(narrow(MaskLayer()(wide(x))))
    x = layers.Add()([x, relu(y)])
    twice = keras.Sequential([keras.Input((16, 8)), layers.Dense(12, activation="relu"), MaskLayer(), layers.Dense(8)])
    return keras.Model(inputs, layers.Dense(3)(twice(twice(x))))


def masks_before_normalisation() -> Any:
    """Channels that are constant and not zero, at borders as well."""
    inputs = x = keras.Input((16, 16, 3))
    for channels in (12, 16, 20):
        x = MaskLayer()(layers.Conv2D(channels, 3, padding="same", use_bias=False)(x))
        x = layers.Activation("sigmoid")(layers.BatchNormalization()(x))
    x = MaskLayer()(layers.Conv2D(9, 3, use_bias=False)(x))
    return keras.Model(inputs, layers.Conv2D(9, 3, use_bias=False)(layers.Activation("sigmoid")(x)))


def masked_outputs() -> Any:
    first, second = keras.Input((8,), name="first"), keras.Input((8,), name="second")
    x = MaskLayer(name="mask")(layers.Dense(8, activation="relu")(first))
    y = MaskLayer()(layers.Dense(8)(second))
    outputs = {
        "masked": x,
        "product": layers.Dense(3)(layers.Multiply()([x, y])),
        "side by side": layers.Concatenate()([x, y]),
        "larger": MaskLayer()(layers.Maximum()([x, y])),
    }
    return keras.Model([first, second], outputs)


def gates() -> Any:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="swish")(inputs)
    gate = layers.Conv2D(4, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, layers.Conv2D(16, 1, activation="sigmoid")(gate)])
    x = layers.TimeDistributed(layers.Dense(12, activation="relu"))(keras.ops.relu(x) + 0.5 * x)
    return keras.Model(inputs, layers.Conv2D(6, 3)(x))


def scaled_branches() -> Any:
    """As a ConvNeXt has them."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(12, 2, strides=2)(inputs)
    for number in range(2):
        y = layers.LayerNormalization()(layers.DepthwiseConv2D(7, padding="same")(x))
        y = layers.Dense(12)(layers.Dense(24, activation="gelu")(y))
        x = layers.Add()([x, LayerScale(1.0, 12, name=f"scale_{number}")(y)])
    outputs = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    return prunable(keras.Model(inputs, outputs), after="layer")


NETWORKS: tuple[Callable[[], Any], ...] = (
    *(u_net, vision_transformer, grouped_queries, text, recurrent, recommender, kinds_of_convolutions, sequences),
    *(models_in_models, called_twice, masks_before_normalisation, masked_outputs, gates),
    *(scaled_branches, padded_text, operations),
)


def made(network: Callable[[], Any], seed: int = 0) -> Any:
    """The network with weights as training leaves them, none of which is zero, and half of each mask at zero."""
    keras.utils.set_random_seed(seed)
    model, rng = network(), np.random.default_rng(seed)
    model = model if mask_layers(model) else prunable(model)
    for variable in model.weights:
        if variable.name in ("bias", "beta", "gamma", "moving_mean"):
            variable.assign(rng.normal(size=variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2, size=variable.shape))
    halve(model, rng)
    return model


def halve(model: Any, rng: np.random.Generator) -> None:
    """Set a random half of each mask to zero."""
    for layer in mask_layers(model):
        size = layer.mask.shape[0]
        layer.mask.assign(rng.permutation(size) < (size + 1) // 2)


def data(model: Any, batch: int = 3) -> Any:
    """Random inputs of the model, in its structure."""
    rng = np.random.default_rng(0)

    def drawn(tensor: Any) -> Any:
        shape = [batch, *(size or 16 for size in tensor.shape[1:])]
        if keras.backend.is_float_dtype(tensor.dtype):
            return rng.normal(size=shape).astype(tensor.dtype)
        return rng.integers(0, 50, shape).astype(tensor.dtype)

    return keras.tree.map_structure(drawn, model.input)
