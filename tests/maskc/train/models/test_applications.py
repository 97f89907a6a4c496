"""Networks as they come with Keras: masks put in, entries pruned by their signals, exported, compiled, compared."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import maskc
from maskc.train import computational_cost, prunable, prune, update_pruning_signals
from maskc.train.mask_layer import mask_layers
from tests.generators.running import Runner
from tests.marks import before_releases
from tests.maskc.train.networks import LOSS
from tests.models import networks


def bottlenecks(activation: str = "hard_swish", blocks: int = 2) -> Any:
    """Inverted bottlenecks with squeeze and excitation, as in MobileNetV3, or with "swish", in EfficientNet."""
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation=activation)(x)
    for _ in range(blocks):
        y = layers.BatchNormalization()(layers.Conv2D(24, 1, use_bias=False)(x))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(layers.Activation(activation)(y))
        y = layers.Activation(activation)(layers.BatchNormalization()(y))
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
    with tf.GradientTape() as tape:
        value = LOSS(rng.integers(0, 10, 8), copy(images, training=True))
    update_pruning_signals(value, 0.0, copy, tape=tape)
    assert all((layer.signal.numpy() > 0).any() for layer in mask_layers(copy))
    prune(None, copy, share)
    return copy


def at_random(model: Any, seed: int) -> Any:
    """The model with masks at random: some whole, some of one channel, now and then one with none."""
    networks.randomise(model)
    copy, rng = prunable(model), np.random.default_rng(seed)
    for layer in mask_layers(copy):
        mask = np.zeros(layer.mask.shape[0], np.float32)
        kept = rng.choice([0, 1, mask.size, mask.size // 2], p=[0.05, 0.15, 0.2, 0.6])
        mask[rng.permutation(mask.size)[:kept]] = 1
        layer.mask.assign(mask)
    return copy


def check(model: Any, path: Any) -> None:
    """What the file computes is what TensorFlow computes, at the FLOPs that training counts."""
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    expected = model.predict(images, verbose=0)
    model.export(path, verbose=False)
    result = maskc.compile(path, align="none", verify=False)
    (actual,) = Runner(result.model)({result.model.graph.input[0].name: images})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert result.report.after.flops == computational_cost(model).flops() < result.report.before.flops


@pytest.mark.slow
@pytest.mark.parametrize(("share", "blocks"), [pytest.param(0.1, 2, marks=pytest.mark.release), (0.5, 1)])
def test_gated_bottlenecks(share: float, blocks: int, tmp_path: Any) -> None:
    keras.utils.set_random_seed(0)
    check(pruned(bottlenecks(blocks=blocks), share), tmp_path / "exported")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *before_releases(1, 2)])
def test_gated_bottlenecks_with_masks_at_random(seed: int, tmp_path: Any) -> None:
    keras.utils.set_random_seed(seed)
    check(at_random(bottlenecks("swish"), seed), tmp_path / "exported")


def application(name: str, size: int) -> Any:
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", *before_releases("MobileNetV3Small")])
def test_an_application(name: str, tmp_path: Any) -> None:
    check(pruned(application(name, 32), 0.3), tmp_path / "exported")


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.release)])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("MobileNetV3Small", 32),
        *(
            pytest.param(name, size, marks=pytest.mark.release)
            for name, size in (
                ("DenseNet121", 32),
                ("EfficientNetB0", 32),
                ("EfficientNetV2B0", 32),
                ("InceptionV3", 75),
                ("MobileNet", 32),
                ("ResNet50", 32),
                ("NASNetMobile", 32),
                ("Xception", 71),
            )
        ),
    ],
)
def test_an_application_with_masks_at_random(name: str, size: int, seed: int, tmp_path: Any) -> None:
    check(at_random(application(name, size), seed), tmp_path / "exported")
