"""The entries that are chosen are those that exact counting of every group's saving would choose."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from maskc.train import PruningOptimizer, prunable
from maskc.train.mask_layer import mask_layers
from maskc.train.selection.pruner import Pruner
from maskc.train.selection.ranking import ranked
from tests.marks import before_releases
from tests.maskc.train.models.test_applications import bottlenecks
from tests.maskc.train.networks import flops_by_group
from tests.maskc.train.shrinking.networks import u_net, vision_transformer

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

DECISIONS = 30
CLOSE = 1.01  # times the least signal per FLOP


def convolution(x: Any, channels: int, size: Any = 3, activation: str | None = "relu", **options: Any) -> Any:
    x = layers.Conv2D(channels, size, padding="same", use_bias=False, **options)(x)
    x = layers.BatchNormalization()(x)
    return x if activation is None else layers.Activation(activation)(x)


def residual() -> Any:
    inputs = keras.Input((16, 16, 3))
    x = convolution(inputs, 16)
    for channels, strides in ((16, 1), (24, 2), (24, 1)):
        y = convolution(convolution(x, channels, strides=strides), channels, activation=None)
        if x.shape[-1] != channels:
            x = convolution(x, channels, 1, None, strides=strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def residual_first() -> Any:
    """Normalisation and activation before the convolutions."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(20, 3, padding="same", activation="relu")(y)
        x = layers.Add()([x, layers.Conv2D(16, 3, padding="same")(y)])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(5)(x))


def two_ways() -> Any:
    """Kernels in series, down the rows and along the columns, beside dense layers that scale their channels."""
    inputs = keras.Input((16, 16, 3))
    x = convolution(inputs, 16)
    y = convolution(convolution(x, 20, (1, 3)), 24, (3, 1))
    scale = layers.Dense(24, activation="sigmoid")(
        layers.Dense(18, activation="relu")(layers.GlobalAveragePooling2D()(x))
    )
    x = layers.Multiply()([y, layers.Reshape((1, 1, 24))(scale)])
    x = layers.GlobalMaxPooling2D()(convolution(x, 16, dilation_rate=2))
    return keras.Model(inputs, layers.Dense(5)(x))


OFTEN = [residual, bottlenecks]
RARE = [u_net, vision_transformer, residual_first, two_ways]


@pytest.mark.parametrize("network", [*OFTEN, *before_releases(*RARE)])
def test_decisions(network: Callable[[], Any]) -> None:
    assert worse(network, "activation") == []


@pytest.mark.release
def test_decisions_of_masks_directly_after_layers() -> None:
    """A constant channel may stand for the others there, and which one is removed then matters a little."""
    found = [worse(network, "layer") for network in OFTEN + RARE]
    assert sum(map(len, found)) <= len(found) * DECISIONS / 100, found


def worse(network: Callable[[], Any], after: Any) -> list[tuple[float, float]]:
    """Signal per FLOP of what was chosen and of what should have been, where these differ by more than a hundredth."""
    keras.utils.set_random_seed(0)
    chosen = [signal_per_flop(*pair) for pair in decisions(prunable(network(), after))]
    assert len(chosen) == DECISIONS
    return [pair for pair in chosen if pair[0] > CLOSE * pair[1]]


def decisions(model: Any) -> Any:
    """Before each decision the pruner, the masks and the scores; and the groups that went in it."""
    masked = mask_layers(model)
    rng = np.random.default_rng(1)
    # as different between layers as between channels
    scores = [rng.lognormal(rng.normal(0, 1), 1, layer.mask.shape).astype(np.float32) for layer in masked]
    settings = PruningOptimizer("sgd", flops_target=0, prune_every=1).settings
    pruner = Pruner(model, masked, settings, [])
    masks = [np.ones_like(score) for score in scores]
    for step in range(1, DECISIONS + 1):
        _, *pruned = pruner.decide(step, *masks, *scores)
        gone = [g[(old != 0) & (new == 0)] for g, old, new in zip(pruner._groups, masks, pruned, strict=True)]
        yield pruner, masks, scores, np.unique(np.concatenate(gone)).tolist()
        masks = pruned
        # importance changes as others go
        scores = [score * rng.lognormal(0, 0.2, score.shape).astype(np.float32) for score in scores]


def signal_per_flop(pruner: Pruner, masks: Any, scores: Any, gone: list[int]) -> tuple[float, float]:
    """That of the group that went, and the least of all: by what every group saves exactly.

    Groups that play the same part are counted once, and of these the one in question by itself: where a constant
    channel stands for others, it is one of them that does, and to remove that one saves something else.
    """
    (group,) = gone
    flops, savings = flops_by_group(pruner._cost, masks, pruner._groups)
    entries, alive, score = (np.concatenate(parts) for parts in (pruner._groups, masks, scores))
    itself: set[int] = set()
    while not {group, best := least(pruner, masks, scores, flops, savings)} <= itself:
        for number in {group, best} - itself:
            without = [mask * (own != number) for mask, own in zip(masks, pruner._groups, strict=True)]
            savings[number] = flops - pruner._cost.count(without)
            itself.add(number)
    importance = [float(score[(entries == number) & (alive != 0)].sum()) for number in (group, best)]
    return importance[0] / max(savings[group], 1e-9), importance[1] / max(savings[best], 1e-9)


def least(pruner: Pruner, masks: Any, scores: Any, flops: int, savings: Any) -> int:
    capped = np.minimum(savings, max(flops - pruner.target, 1)).astype(float)
    return next(ranked(masks, scores, pruner._groups, capped, "auto", pruner.settings.min_channels))
