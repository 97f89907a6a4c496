"""Entries that are pruned together: by the compiler's analysis, or because layers share a mask."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from maskc import InputError
from maskc.train import MaskLayer, PruningOptimizer, computational_cost
from tests.maskc.train.networks import LOSS, compiled_flops, depthwise, fit, masks, mlp, pruned, residual


def train(model: Any, steps: int = 6, **arguments: Any) -> PruningOptimizer:
    keras.utils.set_random_seed(3)
    optimizer = PruningOptimizer(keras.optimizers.SGD(0.01), prune_every=1, **{"flops_target": 0, **arguments})
    model.compile(optimizer, LOSS, run_eagerly=True)  # no step is traced, which takes longer than the few there are
    fit(model, 0, steps, count=4 * steps)
    return optimizer


def test_a_residual_sum_loses_whole_channels() -> None:
    model = residual()
    train(model)
    found = masks(model)
    assert 0 < found["stem"].sum() < 4
    np.testing.assert_array_equal(found["stem"], found["branch"])
    np.testing.assert_array_equal(found["stem"], found["after"])


@pytest.mark.slow
def test_without_ties_each_entry_is_on_its_own() -> None:
    model = residual()
    train(model, tie="none")
    assert pruned(model) == 6


@pytest.mark.slow
def test_a_group_goes_by_the_sum_of_its_signals_and_what_it_saves_together() -> None:
    model = depthwise()
    cost = computational_cost(model)
    every = [np.ones_like(mask) for mask in cost.masks()]
    total, _ = cost.at(every)
    optimizer = train(model, steps=1)
    signals = {layer.name: layer.signal.numpy() for layer in model.layers if isinstance(layer, MaskLayer)}
    scores = {}
    for names in (("expand", "depthwise"), ("project",)):
        for channel in range(len(signals[names[0]])):
            without = [mask.copy() for mask in every]
            for name in names:
                without[cost.names.index(name)][channel] = 0
            scores[names, channel] = sum(signals[n][channel] for n in names) / (total - cost.at(without)[0])
    names, channel = min(scores, key=lambda key: scores[key])
    assert [(entry.mask, entry.channel) for entry in optimizer.history] == [(name, channel) for name in names]
    assert len({entry.flops for entry in optimizer.history}) == 1


@pytest.mark.parametrize("tie", [pytest.param("auto", marks=pytest.mark.slow), "none"])
def test_layers_with_the_same_groups_share_a_mask(tie: Any) -> None:
    model = mlp()
    for layer in model.layers:
        if isinstance(layer, MaskLayer):
            layer.groups = "hidden"
    optimizer = train(model, steps=3, tie=tie)
    found = masks(model)
    np.testing.assert_array_equal(found["first"], found["second"])
    assert found["first"].sum() == 3
    assert len(optimizer.history) == 6


def test_shared_masks_have_equally_many_channels() -> None:
    inputs = keras.Input((4,))
    x = MaskLayer("hidden", name="a")(layers.Dense(3)(inputs))
    x = MaskLayer("hidden", name="b")(layers.Dense(5)(x))
    with pytest.raises(InputError, match="'a' and 'b' have groups='hidden' but 3 and 5 channels"):
        train(keras.Model(inputs, layers.Dense(3)(x)))


@pytest.mark.slow
def test_min_channels_holds_for_every_mask_of_a_group() -> None:
    model = residual()
    train(model, steps=12, min_channels=2)
    assert min(int(mask.sum()) for mask in masks(model).values()) == 2


def attention() -> Any:
    """Two heads of four channels, with masks on queries, keys and values."""
    inputs = keras.Input((5, 8))

    def heads(name: str, order: tuple[int, ...]) -> Any:
        x = MaskLayer(name=name)(layers.Dense(8)(inputs))
        return layers.Permute(order)(layers.Reshape((5, 2, 4))(x))

    scores = layers.Softmax()(keras.ops.matmul(heads("q", (2, 1, 3)), heads("k", (2, 3, 1))))
    x = layers.Permute((2, 1, 3))(keras.ops.matmul(scores, heads("v", (2, 1, 3))))
    x = layers.GlobalAveragePooling1D()(layers.Reshape((5, 8))(x))
    return keras.Model(inputs, layers.Dense(3)(x), name="attention")


@pytest.mark.slow
def test_attention_loses_places_of_queries_with_those_of_keys(tmp_path: Path) -> None:
    model = attention()
    optimizer = train(model, steps=3, flops_target=0.7)
    found = masks(model)
    np.testing.assert_array_equal(found["q"], found["k"])
    for mask in found.values():
        assert mask.sum() % 2 == 0
    assert pruned(model) > 0
    assert compiled_flops(model, tmp_path / "exported") == computational_cost(model).flops() == optimizer.flops


@pytest.mark.slow
def test_frozen_masks_stay_though_they_are_tied() -> None:
    model = residual()
    model.get_layer("stem").trainable = False
    train(model, steps=8)
    found = masks(model)
    assert found["stem"].all()
    np.testing.assert_array_equal(found["branch"], found["after"])
    assert not found["branch"].all()
