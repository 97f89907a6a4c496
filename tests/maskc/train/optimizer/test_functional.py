"""Masks, signals and pruning as functions, against masks that are copied for each example."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from maskc import InputError
from maskc.train import MaskLayer, apply_mask, prune, update_pruning_signals
from tests.maskc.train.reference import STATISTICS, Case


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reduction"), [("dense", "mean"), ("conv", "sum"), ("sequence", "mean")])
def test_signals_are_those_of_copied_masks(kind: str, reduction: Any) -> None:
    case = Case(kind, reduction)
    gradients = case.gradients()
    for method, statistic in STATISTICS.items():
        for graph in (False, True):

            def update(method: str = method) -> None:
                with tf.GradientTape() as tape:
                    loss = case.loss(case.y, case.forward(case.x))
                update_pruning_signals(loss, 0.0, case.masks, method, tape=tape, loss_reduction=reduction)

            (tf.function(update) if graph else update)()
            case.check([*map(statistic, gradients)], atol=1e-5)


def test_signals_follow_their_batches() -> None:
    case = Case("dense")
    expected = case.fisher()
    for share in (0.25, 0.25 + 0.75 * 0.25):
        with tf.GradientTape() as tape:
            loss = case.loss(case.y, case.forward(case.x))
        update_pruning_signals(loss, 0.75, case.masks, "Fisher", tape=tape)
        case.check([share * signal for signal in expected])


def test_magnitude_is_the_mean_size_of_what_is_masked() -> None:
    case = Case("conv")
    update_pruning_signals(case.forward(case.x), 0.0, case.masks, "magnitude")
    first = case.stages[0](case.x)
    second = case.stages[1](first * case.masks[0].mask)
    case.check([np.abs(inputs).mean(axis=(0, 1, 2)) for inputs in (first, second)])


def test_random_signals_go_by_their_seed() -> None:
    case = Case("dense")
    drawn = []
    for seed in (1, 1, 2):
        update_pruning_signals(None, 0.9, case.masks, "random", seed=seed)
        drawn.append(case.masks[0].signal.numpy().copy())
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert len(set(drawn[0].tolist())) == 7


def test_the_same_call_for_all_kinds_of_tensors() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    mask = MaskLayer()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, apply_mask(inputs, mask))
    mask.mask.assign([1, 0, 1])
    for result in (model(x), apply_mask(tf.constant(x), mask), tf.function(lambda t: apply_mask(t, mask))(x)):
        np.testing.assert_array_equal(result, x * [1, 0, 1])


def test_a_keras_model_keeps_the_layer_that_is_made() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, apply_mask(keras.layers.Dense(4)(inputs)))
    assert [layer.mask.shape for layer in model.layers if isinstance(layer, MaskLayer)] == [(4,)]


def masks(*values: list[float]) -> list[MaskLayer]:
    made = []
    for value in values:
        layer = MaskLayer(groups="one" if len(made) < 2 and len(values) > 2 else None)
        layer.build((None, len(value)))
        layer.signal.assign(value)
        made.append(layer)
    return made


def test_prune_removes_the_feature_with_the_smallest_signal() -> None:
    layers_ = masks([3, 2, 4], [5, 1])
    assert prune(None, layers_) == [(1, 1)]
    assert prune(None, layers_) == [(0, 1)]
    assert prune([[3, 2, 1], [0, 1]], layers_) == [(0, 2)]
    assert [layer.mask.numpy().tolist() for layer in layers_] == [[1, 0, 0], [1, 0]]
    assert prune(None, layers_) == []


def test_prune_several_at_once_or_a_fraction() -> None:
    assert prune(None, masks([3, 2, 4], [5, 1]), 3) == [(1, 1), (0, 1), (0, 0)]
    assert prune(None, masks([3, 2, 4], [5, 1]), 0.5) == [(1, 1), (0, 1)]
    assert prune(None, masks([3, 2], [5, 1]), 9, min_channels=0) == [(1, 1), (0, 1), (0, 0), (1, 0)]
    assert prune(None, masks([3, 2]), 0) == []


def test_prune_arrays_in_place() -> None:
    arrays = [np.ones(3), np.ones(2)]
    assert prune([[3, 2, 4], [5, 1]], arrays, 2) == [(1, 1), (0, 1)]
    assert [array.tolist() for array in arrays] == [[1, 0, 1], [1, 0]]


def test_prune_by_signals_against_flops() -> None:
    given = {"savings": [[30, 1, 1], [1, 1]]}
    assert prune(None, masks([3, 2, 4], [5, 1]), flops_weight="auto", **given) == [(0, 0)]
    assert prune(None, masks([3, 2, 4], [5, 1]), flops_weight=1.0, **given) == [(0, 0)]
    assert prune(None, masks([3, 2, 4], [5, 1]), **given) == [(1, 1)]


def test_prune_shared_masks_together() -> None:
    assert prune(None, masks([1, 3], [5, 2], [9, 5.5]), 2) == [(0, 1), (1, 1), (2, 1)]


def test_a_loss_that_the_mask_has_no_part_in() -> None:
    mask = MaskLayer()
    with tf.GradientTape() as tape:
        apply_mask(tf.ones((2, 3)), mask)
        loss = tf.constant(1.0)
    with pytest.raises(InputError, match="does not depend on"):
        update_pruning_signals(loss, 0.9, [mask], tape=tape)


def test_a_compiled_model_in_a_loop_of_ones_own() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(apply_mask(inputs)))
    model.compile("sgd", "mse")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(tf.ones((2, 3)), training=True))
    update_pruning_signals(loss, 0.0, model, tape=tape)
    kernel = model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(model.layers[1].signal.numpy(), kernel[:, 0] ** 2, rtol=1e-5)
