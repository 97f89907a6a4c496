"""How far pruning comes, and when."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from maskc import InputError
from maskc.train import MaskLayer, PruningOptimizer, computational_cost
from maskc.train.selection.settings import goal
from tests.maskc.train.networks import LOSS, check_pause, fit, masks, mlp, plain


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("one-shot", [200, 200, 200, 200, 200]),
        ("linear", [800, 600, 400, 200, 200]),
        ("cubic", [1000 - 800 * 37 / 64, 1000 - 800 * 7 / 8, 1000 - 800 * 63 / 64, 200, 200]),
    ],
)
def test_goals_by_hand(schedule: str, expected: list[float]) -> None:
    ramp = 0 if schedule == "one-shot" else 40
    assert [goal(schedule, step, 10, ramp, 1000, 200) for step in (20, 30, 40, 50, 60)] == [int(e) for e in expected]


def compiled(build: Any = plain, **arguments: Any) -> Any:
    keras.utils.set_random_seed(2)
    model = build()
    optimizer = PruningOptimizer(keras.optimizers.Adam(0.01), decay=0.5, **{"flops_target": 0, **arguments})
    model.compile(optimizer, LOSS, run_eagerly=True)  # no step is traced, which takes longer than the few there are
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "ramp"), [("one-shot", 0), ("linear", 9), ("cubic", 9)])
def test_flops_follow_the_schedule(schedule: Any, ramp: int) -> None:
    model = compiled(prune_every=3, burn_in=3, flops_target=0.4, schedule=schedule, ramp=ramp)
    cost = computational_cost(model)
    full, largest = cost.flops(), max(int(saving.max()) for saving in cost.gradient().values())
    fit(model, 0, 13)
    optimizer = model.optimizer
    left = {entry.step: entry.flops for entry in optimizer.history}
    assert set(left) <= {6, 9, 12} and (schedule != "one-shot" or list(left) == [6])
    for step in (6, 9, 12):
        asked = goal(schedule, step, 3, ramp, full, optimizer.pruner.target)
        assert [flops for then, flops in left.items() if then <= step][-1] <= asked
        assert step not in left or asked - largest < left[step]
    assert optimizer.reached
    assert optimizer.flops == computational_cost(model).flops()


@pytest.mark.slow
def test_what_saves_more_and_more_is_not_overdone() -> None:
    """Of the channels before a normalisation the first save hardly anything: their constants must be made up for."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    x = inputs
    for _ in range(2):
        x = keras.layers.LayerNormalization()(MaskLayer()(keras.layers.Dense(48, activation="relu")(x)))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    optimizer = PruningOptimizer("sgd", prune_every=1, flops_target=0.4, schedule="one-shot", method="random")
    model.compile(optimizer, LOSS, run_eagerly=True)
    fit(model, 0, 2)
    target = int(0.4 * computational_cost(model).at([np.ones(48), np.ones(48)])[0])
    assert 0.9 * target < optimizer.flops <= target


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "ramp"), [(None, 0), ("linear", 3)])
def test_without_a_target_every_mask_keeps_the_fewest_channels(schedule: Any, ramp: int) -> None:
    model = compiled(mlp, prune_every=1, schedule=schedule, ramp=ramp, min_channels=2)
    fit(model, 0, 10)
    assert model.optimizer.reached
    assert [int(mask.sum()) for mask in masks(model).values()] == [2, 2]


def wide() -> Any:
    """Two masks of a residual sum, one after a depthwise convolution, and one whose channels are flattened."""
    layers = keras.layers
    inputs = keras.Input((6, 6, 3))
    x = stem = MaskLayer(name="stem")(layers.Conv2D(20, 3, padding="same", activation="relu")(inputs))
    x = MaskLayer(name="depthwise")(layers.DepthwiseConv2D(3, padding="same", activation="relu")(x))
    x = layers.Add()([stem, MaskLayer(name="branch")(layers.Conv2D(20, 1)(x))])
    x = MaskLayer(name="last")(layers.Conv2D(11, 3, activation="relu")(x))
    x = MaskLayer(name="few")(layers.Dense(3, activation="relu")(layers.Flatten()(x)))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "flops_weight"), [(None, "auto"), ("one-shot", 1e-9)])
def test_channels_are_left_in_multiples(schedule: Any, flops_weight: Any) -> None:
    model = compiled(
        wide, prune_every=1, schedule=schedule, flops_weight=flops_weight, round_to=4, flops_target=0.2, method="taylor"
    )
    whole = {"stem": 20, "depthwise": 20, "branch": 20, "last": 11, "few": 3}
    for step in range(8):
        fit(model, step, step + 1)
        left = {name: int(mask.sum()) for name, mask in masks(model).items()}
        assert all(number % 4 == 0 or number == whole[name] or name == "few" for name, number in left.items())
    optimizer = model.optimizer
    assert optimizer.reached
    assert optimizer.flops == computational_cost(model).flops() <= 0.2 * optimizer.pruner.before
    assert left["last"] in (4, 8), "nothing went beyond a multiple of 4"


def test_multiples_that_forbid_the_target_are_said() -> None:
    model = compiled(wide, prune_every=1, round_to=16, flops_target=0.1)
    with pytest.raises(InputError, match=r"as masks may keep \(round_to=16, min_channels=1\)"):
        fit(model, 0, 1)


@pytest.mark.slow
def test_a_pause_in_the_middle_of_a_schedule_changes_nothing(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "prune_every": 2,
        "burn_in": 1,
        "flops_target": 0.4,
        "schedule": "cubic",
        "ramp": 16,
        "method": "taylor",
    }
    resumed = check_pause(lambda: compiled(mlp, **arguments), 4, 13, tmp_path)
    assert len({entry.step for entry in resumed.optimizer.history}) > 2
