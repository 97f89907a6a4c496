"""Networks as they come with Keras: masks put in, entries pruned by their signals, exported, compiled, compared."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import maskc
from maskc.train import computational_cost, prunable, prune, update_pruning_signals
from maskc.train.mask import mask_layers
from tests.generators.check import Runner
from tests.models import networks

pytestmark = pytest.mark.tensorflow


def bottlenecks() -> Any:
    """Inverted bottlenecks with hard_swish, squeeze and excitation, as in MobileNetV3."""
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="hard_swish")(x)
    for _ in range(2):
        y = layers.BatchNormalization()(layers.Conv2D(24, 1, use_bias=False)(x))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(layers.Activation("hard_swish")(y))
        y = layers.Activation("hard_swish")(layers.BatchNormalization()(y))
        gate = layers.Conv2D(6, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(y))
        y = layers.Multiply()([y, layers.Conv2D(24, 1, activation="hard_sigmoid")(gate)])
        x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(8, 1)(y))])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def pruned(model: Any, share: float) -> Any:
    """The model with masks, this share of whose entries went by the signals of one batch."""
    networks.randomise(model)
    copy = prunable(model)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(8, *model.input_shape[1:])).astype(np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(rng.integers(0, 10, 8), copy(images, training=True))
    update_pruning_signals(value, 0.0, copy, tape=tape)
    assert all((layer.signal.numpy() > 0).any() for layer in mask_layers(copy))
    prune(None, copy, share)
    return copy


def check(model: Any, path: Any) -> None:
    """What the file computes is what TensorFlow computes, at the FLOPs that training counts."""
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    expected = model.predict(images, verbose=0)
    model.export(path, verbose=False)
    result = maskc.compile(path, align="none")
    (actual,) = Runner(result.model)({result.model.graph.input[0].name: images})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert result.report.after.flops == computational_cost(model).flops() < result.report.before.flops


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_gated_bottlenecks(share: float, tmp_path: Any) -> None:
    keras.utils.set_random_seed(0)
    check(pruned(bottlenecks(), share), tmp_path / "exported")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small"])
def test_an_application(name: str, tmp_path: Any) -> None:
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None)
    check(pruned(model, 0.3), tmp_path / "exported")
