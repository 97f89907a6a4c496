"""The FLOPs that training ends with are those of the compiled file, for networks as they are built in practice."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import maskc
from maskc.train import MaskLayer, PruningOptimizer, computational_cost, pruned_shape
from tests.maskc.train.networks import LOSS, data, masks


def masked(x: Any) -> Any:
    return MaskLayer()(layers.ReLU()(x))


def conv(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def cnn() -> Any:
    x = inputs = keras.Input((12, 12, 1))
    for filters in (6, 8):
        x = layers.MaxPooling2D()(masked(conv(x, filters)))
    x = MaskLayer()(layers.Dense(10, activation="relu")(layers.Flatten()(x)))
    return keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.1)(x)), name="cnn")


def resnet() -> Any:
    """Two stages of two blocks, the second narrower in space, with projections where the width changes."""
    inputs = keras.Input((12, 12, 3))
    x = masked(conv(inputs, 6))
    for filters, strides in ((6, 1), (6, 1), (8, 2), (8, 1)):
        skip = x if strides == 1 else MaskLayer()(conv(x, filters, 1, strides))
        x = conv(masked(conv(x, filters, strides=strides)), filters)
        x = masked(layers.Add()([MaskLayer()(x), skip]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name="resnet")


def mobilenet() -> Any:
    """Inverted bottlenecks with squeeze and excitation, as in MobileNetV3."""
    inputs = keras.Input((12, 12, 3))
    x = masked(conv(inputs, 6, strides=2))
    for filters, strides in ((6, 1), (8, 2)):
        y = masked(conv(x, 12, 1))
        y = masked(layers.BatchNormalization()(layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(y)))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = MaskLayer()(layers.Conv2D(4, 1, activation="relu")(gate))
        y = layers.Multiply()([y, layers.Conv2D(12, 1, activation="hard_sigmoid")(gate)])
        y = MaskLayer()(conv(y, filters, 1))
        x = layers.Add()([x, y]) if strides == 1 else y
    x = layers.GlobalAveragePooling2D()(masked(conv(x, 16, 1)))
    return keras.Model(inputs, layers.Dense(3)(x), name="mobilenet")


# At 0.3 and without ties no channel of the last depthwise convolution has both its masks left: nothing is computed.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "tie", "target"),
    [
        (cnn, "auto", 0.3),
        (resnet, "auto", 0.3),
        (mobilenet, "none", 0.3),
        pytest.param(mobilenet, "none", 0.4, marks=pytest.mark.release),
    ],
)
def test_flops_at_the_end_are_the_files(build: Any, tie: Any, target: float, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    model = build()
    full = computational_cost(model).flops()
    inner = keras.optimizers.Adam(0.01)
    optimizer = PruningOptimizer(
        inner, prune_every=2, burn_in=3, flops_target=target, schedule="linear", ramp=4, tie=tie, method="taylor"
    )
    model.compile(optimizer, LOSS)
    x, y = data(model, count=32)
    model.fit(x, y, batch_size=4, verbose=0)
    assert optimizer.reached and optimizer.flops is not None and optimizer.flops <= target * full
    model.export(tmp_path / "exported", verbose=False)
    result = maskc.compile(tmp_path / "exported", align="none", verify=False)
    assert result.report.after.flops == maskc.flops(result.model).flops == optimizer.flops
    left = masks(model).values()
    assert all(mask.any() for mask in left) and not all(mask.all() for mask in left)


@pytest.mark.parametrize("target", [0.5, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_sequential_model_that_is_built_by_its_first_step(target: float) -> None:
    model = keras.Sequential([layers.Dense(16, activation="relu"), MaskLayer(), layers.Dense(2)])
    optimizer = PruningOptimizer("sgd", prune_every=1, flops_target=target)
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(40, 8)), rng.normal(size=(40, 2)), batch_size=4, verbose=0)
    assert optimizer.reached and optimizer.flops == computational_cost(model).flops()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_bfloat16_is_counted_and_compiled_as_float32_is(policy: str, tmp_path: Path) -> None:
    def network(policy: str) -> Any:
        keras.utils.set_random_seed(1)
        inputs = keras.Input((6, 6, 2), dtype="float32")
        x = layers.ReLU(dtype=policy)(layers.Conv2D(4, 3, use_bias=False, dtype=policy)(inputs))
        x = MaskLayer(dtype=policy, name="mask")(x)
        x = layers.GlobalAveragePooling2D(dtype=policy)(x)
        return keras.Model(inputs, layers.Dense(3, dtype="float32" if "mixed" in policy else policy)(x))

    model = network(policy)
    assert computational_cost(model).flops() == computational_cost(network("float32")).flops()
    optimizer = PruningOptimizer("sgd", prune_every=1, flops_target=0.3)
    model.compile(optimizer, LOSS)
    x, y = data(model, count=16)
    model.fit(x, y, batch_size=2, verbose=0)
    assert optimizer.reached
    assert pruned_shape(model, "mask")[-1] == model.get_layer("mask").mask.numpy().astype(int).sum() < 4
    model.export(tmp_path / "exported", verbose=False)
    result = maskc.compile(tmp_path / "exported", align="none", verify=True)
    assert result.report.verification is not None and result.report.verification.passed
    assert result.report.after.flops == optimizer.flops
    assert result.report.warnings == (
        "What TensorFlow computes in bfloat16 is float32 here, inputs and outputs as well: it rounds less.",
    )
