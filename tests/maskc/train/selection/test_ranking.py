"""The choice of the next mask entries, on numbers small enough to check by hand."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from maskc.train import MaskLayer, PruningOptimizer, computational_cost, prunable
from maskc.train.mask_layer import mask_layers
from maskc.train.selection.pruner import Pruner
from maskc.train.selection.ranking import kinds_of, ranked, ranked_in_multiples, uncoupled


def choose(
    masks: Any,
    signals: Any,
    savings: Any,
    weight: Any = "auto",
    least: int = 1,
    groups: Any = None,
    *,
    round_to: int | None = None,
    enough: float = np.inf,
) -> Any:
    """Groups in the order in which they go, one by one or in multiples."""
    arrays = [[np.asarray(values, np.float32) for values in group] for group in (masks, signals)]
    groups = uncoupled([len(mask) for mask in masks]) if groups is None else [np.asarray(g) for g in groups]
    saved = np.concatenate(savings).astype(np.float64)
    if round_to is None:
        return list(ranked(*arrays, groups, saved, weight, least))
    kinds = kinds_of(groups)
    units = np.where(np.bincount(kinds) < round_to, 1, round_to)
    return list(ranked_in_multiples(*arrays, groups, kinds, saved, weight, least, units, enough))


def test_auto_takes_the_smallest_signal_per_flop() -> None:
    assert choose([[1, 1], [1, 1]], [[4, 3], [2, 5]], [[10, 10], [2, 20]], least=0) == [3, 1, 0, 2]


def test_a_number_weighs_flops_against_the_signal() -> None:
    signals, savings = [[4, 3], [2, 5]], [[10, 10], [2, 20]]
    assert choose([[1, 1], [1, 1]], signals, savings, 0.0, 0) == [2, 1, 0, 3]
    assert choose([[1, 1], [1, 1]], signals, savings, 1.0, 0) == [3, 1, 0, 2]


def test_pruned_entries_are_left_out() -> None:
    assert choose([[0, 1, 1], [1, 0, 1]], [[0, 3, 2], [9, 0, 9]], [[0, 1, 1], [1, 0, 1]], least=0) == [2, 1, 3, 5]


def test_small_masks_are_left_alone() -> None:
    masks, signals, savings = [[0, 1], [1, 1]], [[0, 1], [5, 6]], [[0, 9], [1, 1]]
    assert choose(masks, signals, savings, least=1) == [2]
    assert choose(masks, signals, savings, least=0) == [1, 2, 3]
    assert choose(masks, signals, savings, least=2) == []


def test_entries_that_save_nothing_come_last() -> None:
    assert choose([[1, 1], [1, 1]], [[1, 2], [30, 40]], [[0, 0], [1, 1]], least=0) == [2, 3, 0, 1]
    assert choose([[1, 1], [0, 1]], [[2, 1], [0, 40]], [[0, 0], [0, 0]], least=0) == [1, 0, 3]


def test_dead_channels_go_by_what_they_save() -> None:
    assert choose([[1, 1, 1]], [[0, 0, 0]], [[5, 7, 7]]) == [1, 2]


def test_signals_of_a_group_add_up() -> None:
    masks, groups = [[1, 1], [1, 1]], [[0, 1], [0, 2]]
    assert choose(masks, [[1, 3], [4, 2]], [[10, 10, 10]], least=0, groups=groups) == [2, 1, 0]
    assert choose([[0, 1], [1, 1]], [[9, 3], [1, 2]], [[10, 10, 10]], least=0, groups=groups) == [0, 2, 1]


def test_a_group_goes_only_if_every_mask_can_spare_it() -> None:
    masks, groups = [[1, 1, 1], [1, 1]], [[0, 0, 1], [1, 2]]
    signals = [[1, 1, 5], [4, 3]]
    assert choose(masks, signals, [[1, 1, 1]], least=1, groups=groups) == [0, 2]
    assert choose(masks, signals, [[1, 1, 1]], least=2, groups=groups) == []


def test_entries_without_a_group_stay() -> None:
    assert choose([[1, 1], [1, 1]], [[1, 1], [2, 3]], [[1, 1]], least=0, groups=[[-1, -1], [0, 1]]) == [0, 1]


@pytest.mark.parametrize("weight", ["auto", 0.5])
def test_all_masks_pruned(weight: Any) -> None:
    assert choose([[0, 0]], [[1, 1]], [[0, 0]], weight, least=0) == []


def test_first_goes_what_is_beyond_a_multiple() -> None:
    signals = [[5, 1, 4, 2, 7, 3, 6]]
    assert choose([[1] * 7], signals, [[1] * 7], round_to=3) == [[1], [2, 3, 5]]
    assert choose([[0] + [1] * 6], signals, [[1] * 7], round_to=3) == [[1, 3, 5]]
    assert choose([[1] * 7], signals, [[1] * 7], least=0, round_to=3) == [[1], [2, 3, 5], [0, 4, 6]]
    assert choose([[1] * 7], signals, [[1] * 7], least=4, round_to=3) == [[1]]


def test_together_they_compete_by_their_sums() -> None:
    masks, signals = [[1] * 4, [1] * 4], [[1, 9, 9, 9], [3, 3, 9, 9]]
    assert choose(masks, signals, [[1] * 4, [1] * 4])[0] == 0
    assert choose(masks, signals, [[1] * 4, [1] * 4], round_to=2) == [[4, 5], [0, 1]]
    assert choose(masks, signals, [[4] * 4, [1] * 4], round_to=2) == [[0, 1], [4, 5]]
    assert choose(masks, signals, [[4] * 4, [1] * 4], enough=2, round_to=2) == [[4, 5], [0, 1]]


@pytest.mark.parametrize("weight", ["auto", 0.0, 1.0])
def test_the_remainder_goes_before_whole_multiples(weight: Any) -> None:
    """With a weight, eight that lower the loss would rank before one that does: seven were left of fifteen."""
    found = choose([[1] * 15], [np.linspace(0, 0.5, 15)], [[1] * 15], weight=weight, round_to=8)
    assert found == [list(range(7))]


def test_masks_of_few_channels_lose_one_at_a_time() -> None:
    assert choose([[1, 1, 1]], [[3, 1, 2]], [[1, 1, 1]], round_to=8) == [[1], [2]]


def test_coupled_entries_count_once() -> None:
    """Two masks of a sum, and one after it that is flattened over two places."""
    groups = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3]]
    masks = [[1] * len(group) for group in groups]
    signals = [[4, 3, 2, 1], [0] * 4, [0] * 8]
    assert choose(masks, signals, [[1] * 4], groups=groups, round_to=2) == [[2, 3]]
    groups = [[0, 1, 2, 3, 4, 5, -1]]
    assert choose([[1] * 7], [[6, 5, 4, 3, 2, 1, 0]], [[1] * 6], groups=groups, round_to=3) == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.slow
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
    assert pruner._savings.model.doubtful.any()

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


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True])
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
