"""What groups are said to save follows from the decisions that were made, in whichever run."""

import keras
import numpy as np
import pytest
from keras import layers

from maskc.train import MaskLayer, PruningOptimizer, computational_cost, prunable
from maskc.train.mask_layer import mask_layers
from maskc.train.selection.pruner import Pruner


def test_resumed() -> None:
    """With masks directly after layers, constant channels take the place of those removed: savings may be off."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    for channels in (6, 8):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    model = prunable(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))), "layer")
    masked = mask_layers(model)
    settings = PruningOptimizer("sgd", flops_target=0, prune_every=1).settings
    history: list[tuple[int, int, int, int]] = []
    pruner = Pruner(model, masked, settings, history)
    assert pruner._savings.doubtful

    rng = np.random.default_rng(0)
    scores = [rng.lognormal(0, 1, layer.mask.shape).astype(np.float32) for layer in masked]
    masks, kinds = [np.ones_like(score) for score in scores], set()
    for step in range(1, 11):
        _, *masks = pruner.decide(step, *masks, *scores)
        for layer, mask in zip(masked, masks, strict=True):
            layer.mask.assign(mask)
        pruner.at(masks)
        kinds |= pruner._savings._errors.keys()
        if step % 3 == 0:
            resumed = Pruner(model, masked, settings, list(history))
            np.testing.assert_array_equal(resumed._savings.estimates(), pruner._savings.estimates())
            assert resumed.flops == pruner.flops
    assert len(kinds) > 1


@pytest.mark.parametrize("anew", [pytest.param(False, marks=pytest.mark.slow), True])
def test_to_the_last_channel(anew: bool) -> None:
    """Without a mask's last channel all that comes after it is constant, and a branch of a sum is gone."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", bias_initializer="normal")(inputs)
    for name in ("one", "two"):
        branch = MaskLayer(name=name)(layers.Conv2D(3, 1, activation="relu")(x))
        x = layers.Add()([x, layers.Conv2D(4, 3, padding="same")(branch)])
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    masked, cost = mask_layers(model), computational_cost(model)
    settings = PruningOptimizer("sgd", flops_target=0, prune_every=1, min_channels=0).settings
    pruner = Pruner(model, masked, settings, [])
    masks, scores = [np.ones(3, np.float32)] * 2, [np.float32([1, 2, 3]), np.float32([50, 60, 70])]
    for step in range(1, 7):
        before, savings = pruner.flops, pruner._savings.estimates()
        _, *after = pruner.decide(step, *masks, *scores)
        assert pruner.flops == cost.count(after)
        (gone,) = np.flatnonzero(np.concatenate(masks) != np.concatenate(after))
        last = np.count_nonzero(masks[gone // 3]) == 1
        assert last or savings[gone] == before - pruner.flops
        exact = [before - cost.count(np.split(np.concatenate(masks) * (np.arange(6) != n), 2)) for n in range(6)]
        live = np.concatenate(masks) != 0
        rank = np.where(live, np.concatenate(scores) / np.maximum(exact, 1e-9), np.inf)
        assert rank[gone] == rank.min()
        masks = after
        for layer, mask in zip(masked, masks, strict=True):
            layer.mask.assign(mask)
        pruner = Pruner(model, masked, settings, []) if anew else pruner
    assert not any(mask.any() for mask in masks)
