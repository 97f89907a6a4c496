"""What groups are said to save follows from the decisions that were made, in whichever run."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from maskc.train import PruningOptimizer, prunable
from maskc.train.mask_layer import mask_layers
from maskc.train.selection.pruner import Pruner

pytestmark = pytest.mark.tensorflow


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
    assert pruner._savings._model.doubtful.any()

    rng = np.random.default_rng(0)
    scores = [rng.lognormal(0, 1, layer.mask.shape).astype(np.float32) for layer in masked]
    masks = [np.ones_like(score) for score in scores]
    for step in range(1, 11):
        _, *masks = pruner.decide(step, *masks, *scores)
        for layer, mask in zip(masked, masks, strict=True):
            layer.mask.assign(mask)
        pruner.at(masks)
        resumed = Pruner(model, masked, settings, list(history))
        np.testing.assert_array_equal(resumed._savings.estimates(), pruner._savings.estimates())
        assert resumed.flops == pruner.flops
    assert len(pruner._savings._errors) > 1
