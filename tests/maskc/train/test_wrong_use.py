"""Wrong use of masks, losses and data fails before the first update, in one sentence."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from maskc import InputError
from maskc.errors import MaskcError
from maskc.train import (
    MaskLayer,
)
from tests.maskc.train.networks import chain, data, mlp, pruning, vectors


def fit(model: Any, optimizer: Any, loss: Any = "mse", **arguments: Any) -> None:
    x, _ = data(model)
    model.compile(optimizer, loss, **arguments)
    model.fit(x, np.zeros((len(x), *model.output_shape[1:])), verbose=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prune_every": 0},
        {"prune_every": 1.5},
        {"prune_every": True},
        {"burn_in": -1},
        {"decay": 1.0},
        {"decay": -0.1},
        {"decay": "slow"},
        {"flops_target": -1},
        {"flops_target": float("nan")},
        {"flops_weight": "heavy"},
        {"flops_weight": -1.0},
        {"min_channels": -1},
        {"round_to": 0},
        {"loss_reduction": "median"},
        {"method": "hessian"},
        {"method": 3},
        {"schedule": "square"},
        {"schedule": "linear"},
        {"ramp": -1},
        {"ramp": 1.5},
        {"tie": "all"},
        {"update_params": 1},
        {"seed": -1},
    ],
    ids=str,
)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(InputError, match=name):
        pruning(**{"flops_target": 0, **arguments})


@pytest.mark.parametrize("frozen", [False, True])
def test_no_mask_to_prune(frozen: bool) -> None:
    model = mlp() if frozen else chain(4, 3)
    for layer in model.layers:
        layer.trainable = not isinstance(layer, MaskLayer)
    with pytest.raises(InputError, match="MaskLayer"):
        fit(model, pruning())


def test_masks_that_are_frozen_under_an_optimizer_that_knows_them() -> None:
    model = mlp()
    optimizer = pruning(flops_target=0, prune_every=1)
    fit(model, optimizer)
    next(layer for layer in model.layers if isinstance(layer, MaskLayer)).trainable = False
    with pytest.raises(InputError, match=r"frozen after .* a new PruningOptimizer"):
        fit(model, optimizer)


class Twice(keras.layers.Layer):  # type: ignore[misc]
    """Calls a mask twice: in conditions, or of more rows than there are examples."""

    def __init__(self, conditions: bool) -> None:
        super().__init__()
        self.mask, self.conditions = MaskLayer(), conditions

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Returns what is masked, of the same shape."""
        if self.conditions:
            return tf.cond(tf.reduce_sum(x) > 0, lambda: self.mask(x), lambda: self.mask(-x))
        return self.mask(x) + self.mask(tf.concat([x, x], axis=0))[: tf.shape(x)[0]]


@pytest.mark.parametrize(("conditions", "words"), [(True, "conditions apart"), (False, "a row per example")])
def test_calls_of_a_mask_that_share_no_copy(conditions: bool, words: str) -> None:
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4)(Twice(conditions)(keras.layers.Dense(4)(inputs)))
    with pytest.raises((InputError, tf.errors.InvalidArgumentError), match=words):
        fit(keras.Model(inputs, x), pruning())


@pytest.mark.slow
def test_losses_with_different_reductions() -> None:
    inputs = keras.Input((4,))
    x = MaskLayer()(keras.layers.Dense(4)(inputs))
    model = keras.Model(inputs, [keras.layers.Dense(1)(x), keras.layers.Dense(1)(x)])
    x, y = np.zeros((8, 4)), [np.zeros((8, 1))] * 2
    model.compile(pruning(), ["mse", keras.losses.MeanSquaredError(reduction="sum")])
    with pytest.raises(InputError, match="loss_reduction"):
        model.fit(x, y, verbose=0)
    model.compile(pruning(), ["mse", keras.losses.mean_absolute_error])
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize(("burn_in", "batch"), [pytest.param(0, 32, marks=pytest.mark.slow), (0, 4), (100, 4)])
def test_signals_that_are_not_finite(burn_in: int, batch: int) -> None:
    """In the only step, in a later one, and before pruning begins: one sentence, and not TensorFlow's page."""
    model = mlp()
    model.compile(pruning(prune_every=1, burn_in=burn_in, flops_target=0), "mse")
    x, _ = data(model)
    with pytest.raises(
        MaskcError, match=r"^The importance score of the mask '.*' is not finite: training has diverged\.$"
    ):
        model.fit(x, np.full((len(x), 3), np.nan), batch_size=batch, verbose=0)


def test_weights_that_are_not_finite_where_scores_are() -> None:
    """Behind the weights a relu makes 0 of NaN, and the loss stays a number."""
    inputs = keras.Input((4,))
    hidden = MaskLayer()(keras.layers.Dense(6, "relu", name="hidden")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    model.compile(pruning(prune_every=1, flops_target=0.5), "mse")
    x, y = vectors()
    x[5] = np.nan
    with pytest.raises(MaskcError, match=r"^The weight 'hidden/kernel' is not finite: .* data hold infinity or NaN"):
        model.fit(x, y, batch_size=4, verbose=0)


# Arguments of wrong types
