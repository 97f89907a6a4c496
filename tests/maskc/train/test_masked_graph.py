"""The graph that training counts is the same whether large kernels are left out of its conversion or not."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from maskc.train import computational_cost, masked_graph, prunable


def images(policy: str = "float32") -> Any:
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((12, 12, 3))
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
        x = layers.SeparableConv2D(4, 3, padding="same", activation="swish")(x)
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, groups=2, padding="same")(x)))
        y = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(y)
        x = layers.Concatenate()([layers.UpSampling2D()(x), y])
        x = layers.Dense(5, activation="gelu")(layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, layers.Dense(4, dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy("float32")


def sequences() -> Any:
    inputs = keras.Input((9, 6))
    x = layers.Conv1D(4, 3, activation="relu", name="shared")(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = x + layers.MultiHeadAttention(2, 3)(x, x)
    once = layers.Dense(5, activation="relu")
    return keras.Model(inputs, layers.Dense(2)(once(once(layers.Dense(5)(x)))))


def in_bfloat16() -> Any:
    return images("mixed_bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("build", [images, sequences, in_bfloat16])
def test_kernels_left_out(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> tuple[Any, ...]:
        monkeypatch.setattr(masked_graph, "_known", {})
        cost = computational_cost(model)
        rng = np.random.default_rng(0)
        half = [(rng.random(mask.size) < 0.6).astype(np.float32) for mask in cost.masks()]
        flops, savings = cost.at(half)
        return cost.flops(), flops, *savings, *cost.coupled

    model = prunable(build())
    whole = look()
    monkeypatch.setattr(masked_graph, "LARGE", 1)
    np.testing.assert_equal(look(), whole)


def test_large_kernels_are_not_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_graph, "LARGE", 1)
    model = prunable(images())
    without, _ = masked_graph.masked_graph(model, computational_cost(model).layers)
    whole = masked_graph.filled(without)
    elements = sum(np.prod(kernel.shape) for kernel in masked_graph._large_kernels(model))
    assert whole.ByteSize() - without.ByteSize() > 0.9 * 4 * elements
    assert masked_graph.filled(without).SerializeToString() == whole.SerializeToString()
