"""Training steps that XLA compiles prune the same, between executions."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from maskc.train import PruningOptimizer
from tests.maskc.train.networks import LOSS, check_pause, data, fit, masks, mlp, pruned


def fitted(steps: int = 9, method: str = "fisher", **arguments: Any) -> Any:
    keras.utils.set_random_seed(2)
    model = mlp()
    optimizer = PruningOptimizer(keras.optimizers.SGD(0.1), prune_every=2, decay=0.5, flops_target=0.5, method=method)
    model.compile(optimizer, LOSS, **arguments)
    fit(model, 0, steps, count=4 * steps)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fisher", "magnitude"])
def test_xla_prunes_what_plain_graphs_prune(method: str) -> None:
    plain, compiled = fitted(method=method), fitted(method=method, jit_compile=True)
    assert compiled.jit_compile and not plain.jit_compile
    assert len(plain.optimizer.history) == 4
    assert compiled.optimizer.history == plain.optimizer.history
    assert compiled.optimizer.flops == plain.optimizer.flops
    np.testing.assert_equal(masks(compiled), masks(plain))


@pytest.mark.slow
def test_a_decision_due_after_the_first_execution_is_not_lost(tmp_path: Path) -> None:
    model = fitted(steps=2, jit_compile=True, steps_per_execution=2)
    model.save(tmp_path / "model.keras")
    assert pruned(model) == 1
    np.testing.assert_equal(masks(keras.models.load_model(tmp_path / "model.keras")), masks(model))


@pytest.mark.slow
def test_a_pause_under_xla_changes_nothing(tmp_path: Path) -> None:
    """In the middle of a schedule, of an accumulation of gradients, and between two prunings."""

    def fresh() -> Any:
        keras.utils.set_random_seed(2)
        model = mlp()
        optimizer = PruningOptimizer(
            keras.optimizers.Adam(0.05, gradient_accumulation_steps=3),
            prune_every=4,
            burn_in=2,
            decay=0.5,
            flops_target=0.4,
            schedule="cubic",
            ramp=10,
        )
        model.compile(optimizer, LOSS, jit_compile=True, steps_per_execution=2)
        return model

    assert check_pause(fresh, 8, 14, tmp_path).jit_compile


@pytest.mark.slow
def test_several_steps_to_one_execution() -> None:
    """Plain graphs decide within the execution and are exact; XLA decides at its end, as often as was due."""
    assert fitted(steps_per_execution=3).optimizer.history == fitted().optimizer.history
    compiled = fitted(jit_compile=True, steps_per_execution=4)
    assert [entry.step for entry in compiled.optimizer.history] == [4, 4, 8, 8]


def looped(ask: bool) -> tuple[Any, PruningOptimizer]:
    """The model of a custom loop whose steps XLA compiles, which may ask for decisions after each."""
    keras.utils.set_random_seed(2)
    model = mlp()
    optimizer = PruningOptimizer(
        keras.optimizers.SGD(0.1), prune_every=2, decay=0.5, flops_target=0.5, model=model, loss_reduction="mean"
    )

    @tf.function(jit_compile=True)
    def step(x: Any, y: Any) -> Any:
        return optimizer.minimize(lambda: LOSS(y, model(x, training=True)))

    x, y = data(model, count=36)
    for start in range(0, 36, 4):
        step(tf.constant(x[start : start + 4]), tf.constant(y[start : start + 4]))
        if ask:
            optimizer.prune_if_due()
    return model, optimizer


@pytest.mark.slow
def test_a_custom_loop_asks_for_decisions() -> None:
    model, optimizer = looped(ask=True)
    np.testing.assert_equal(masks(model), masks(fitted()))
    assert optimizer.history == fitted().optimizer.history


@pytest.mark.slow
def test_a_custom_loop_that_never_asks_is_told(tmp_path: Path) -> None:
    model, optimizer = looped(ask=False)
    with pytest.warns(UserWarning, match="4 decisions of pruning were due, and are taken at once"):
        model.save(tmp_path / "m.keras")
    assert len(optimizer.history) == 4
