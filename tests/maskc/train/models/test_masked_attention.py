"""Heads of Keras's attention layers: masked, pruned by their importance, and compiled away."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import maskc
from maskc.train import (
    MaskedGroupQueryAttention,
    MaskedMultiHeadAttention,
    PruningOptimizer,
    computational_cost,
    prunable,
)
from maskc.train.importance import masked
from maskc.train.mask_layer import mask_layers
from tests.maskc.train.networks import LOSS, data

KINDS = {
    "multi-head": lambda: layers.MultiHeadAttention(4, 4, name="attention"),
    "grouped queries": lambda: layers.GroupQueryAttention(4, 4, 2, name="attention"),
}


def transformer(kind: str) -> Any:
    inputs = keras.Input((6, 16))
    y = layers.LayerNormalization()(inputs)
    x = layers.Add()([inputs, KINDS[kind]()(y, y)])
    y = layers.Dense(24, activation="gelu", name="hidden")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(16)(y)])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi-head", "grouped queries"])
def test_heads_are_pruned_and_compiled_away(kind: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    original = transformer(kind)
    model = prunable(original)
    x, y = data(model, 64)
    np.testing.assert_array_equal(model.predict(x, verbose=0), original.predict(x, verbose=0))
    assert [layer.name for layer in mask_layers(model)] == ["attention_head_mask", "hidden_mask"]
    optimizer = PruningOptimizer("adam", prune_every=1, flops_target=0.6)
    model.compile(optimizer, LOSS)
    model.fit(x, y, batch_size=2, epochs=1, verbose=0)
    heads = mask_layers(model)[0].mask.numpy()
    assert optimizer.reached and 0 < heads.sum() < 4
    assert np.all(mask_layers(model)[0].signal.numpy() > 0)
    model.export(tmp_path / "model", verbose=False)
    result = maskc.compile(tmp_path / "model", align="none", verify=False)
    assert result.report.after.flops == optimizer.flops <= 0.6 * result.report.before.flops
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("kind", [MaskedMultiHeadAttention, MaskedGroupQueryAttention])
def test_by_hand(kind: Any) -> None:
    """A head that is masked adds nothing, as one whose part of the last projection is zero."""
    keras.utils.set_random_seed(0)
    layer = kind(2, 4) if kind is MaskedMultiHeadAttention else kind(4, 2, 2)
    x = np.random.default_rng(0).normal(size=(4, 6, 16)).astype(np.float32)
    whole = np.asarray(layer(x, x))
    layer.head_mask.mask.assign([0, *np.ones(layer.head_mask.mask.shape[0] - 1)])
    pruned = np.asarray(layer(x, x))
    assert np.abs(whole - pruned).max() > 1e-3
    layer.head_mask.mask.assign(np.ones_like(layer.head_mask.mask))
    kernel = layer._output_dense.kernel.numpy()
    kernel[0] = 0
    layer._output_dense.kernel.assign(kernel)
    np.testing.assert_allclose(np.asarray(layer(x, x)), pruned, atol=1e-6)


def test_a_function_chooses_the_layers() -> None:
    model = prunable(transformer("multi-head"), after=lambda layer: layer.name == "attention")
    assert [layer.name for layer in mask_layers(model)] == ["attention_head_mask"]
    saved = computational_cost(model).gradient()["attention_head_mask"]
    assert len(saved) == 4 and len(set(saved.tolist())) == 1 and saved[0] > 0


@pytest.mark.parametrize("axis", [1, -2, 2, -1])
def test_the_gradient_of_each_example_along_any_axis(axis: int) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(1)
    x, weights = (tf.constant(rng.normal(size=(3, 4, 5)), tf.float32) for _ in range(2))
    size = x.shape[axis]
    copies = tf.zeros((3, size))
    with tf.GradientTape() as tape:
        tape.watch(copies)
        value = tf.reduce_sum(masked(x, tf.ones(size), copies, axis) * weights)
    other = tuple(a for a in (1, 2) if a != axis % 3)
    np.testing.assert_allclose(tape.gradient(value, copies), np.sum(x * weights, axis=other), rtol=1e-5)
