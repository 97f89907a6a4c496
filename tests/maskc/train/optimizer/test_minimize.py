"""Custom training loops: `minimize` and its arguments."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from maskc.train import MaskLayer, PruningOptimizer, computational_cost
from tests.maskc.train.networks import LOSS, check_weights, data, mlp, pruned


def fresh() -> Any:
    keras.utils.set_random_seed(5)
    return mlp()


def loop(model: Any, optimizer: PruningOptimizer, steps: int = 8, graph: bool = False, **arguments: Any) -> None:
    x, y = data(model, count=4 * steps)

    def step(x: Any, y: Any) -> Any:
        return optimizer.minimize(lambda: LOSS(y, model(x, training=True)), **arguments)

    run = tf.function(step) if graph else step
    for start in range(0, 4 * steps, 4):
        run(tf.constant(x[start : start + 4]), tf.constant(y[start : start + 4]))


def pruning(model: Any, **arguments: Any) -> PruningOptimizer:
    return PruningOptimizer(
        keras.optimizers.SGD(0.1), model=model, loss_reduction="mean", **{"flops_target": 0, **arguments}
    )


ARGUMENTS: dict[str, Any] = {
    "prune_every": 2,
    "burn_in": 1,
    "decay": 0.5,
    "flops_weight": 1e-3,
    "flops_target": 0.6,
    "method": "Taylor",
}


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True])
def test_the_same_as_fit_and_as_the_constructors_arguments(graph: bool) -> None:
    fitted = fresh()
    fitted.compile(PruningOptimizer(keras.optimizers.SGD(0.1), **ARGUMENTS), LOSS, run_eagerly=not graph)
    fitted.fit(*data(fitted, count=32), batch_size=4, shuffle=False, verbose=0)
    history = fitted.optimizer.history
    assert len(history) > 1
    for given, at_minimize in ((ARGUMENTS, {}), ({}, ARGUMENTS)):
        model = fresh()
        optimizer = pruning(model, **given)
        loop(model, optimizer, graph=graph, **at_minimize)
        assert optimizer.history == history
        check_weights(model, fitted, rtol=1e-4)


def test_a_loss_with_its_tape() -> None:
    models = fresh(), fresh()
    loop(models[0], pruning(models[0]), steps=1)
    x, y = data(models[1], count=4)
    optimizer = pruning(models[1])
    with tf.GradientTape() as tape:
        loss = LOSS(y, models[1](x, training=True))
    assert optimizer.minimize(loss, tape=tape) is loss
    check_weights(*models, rtol=1e-6, atol=0)


def test_pruning_without_training() -> None:
    model = fresh()
    before = {layer.name: layer.get_weights() for layer in model.layers if not isinstance(layer, MaskLayer)}
    loop(model, pruning(model, prune_every=2), update_params=False)
    np.testing.assert_equal({name: model.get_layer(name).get_weights() for name in before}, before)
    assert pruned(model) == 4


def test_updates_are_counted_by_global_step() -> None:
    model = fresh()
    step = tf.Variable(97, dtype=tf.int64)
    optimizer = pruning(model, prune_every=50, burn_in=50)
    loop(model, optimizer, steps=4, graph=True, global_step=step)
    assert int(step) == 101
    assert [entry.step for entry in optimizer.history] == [100]


@pytest.mark.slow
def test_arguments_may_change_on_the_way() -> None:
    model = fresh()
    optimizer = pruning(model, prune_every=1, flops_target=0.9)
    loop(model, optimizer, steps=6)
    assert optimizer.reached
    loop(model, optimizer, steps=2, flops_target=0.5)
    assert not optimizer.reached or optimizer.flops <= 0.5 * computational_cost(fresh()).flops()
    assert optimizer.settings.flops_target == 0.5
    count = len(optimizer.history)
    loop(model, optimizer, steps=8)
    assert optimizer.reached and len(optimizer.history) > count


def test_a_constant_loss_scale_changes_nothing() -> None:
    models = fresh(), fresh()
    for model, factor in zip(models, (None, 1024.0), strict=True):
        inner = keras.optimizers.SGD(0.1, loss_scale_factor=factor)
        loop(model, PruningOptimizer(inner, prune_every=3, model=model, loss_reduction="mean", flops_target=0), steps=4)
    check_weights(*models, atol=0)


@pytest.mark.parametrize(
    "method", ["fisher", "magnitude", *(pytest.param(m, marks=pytest.mark.slow) for m in ("taylor", "random"))]
)
def test_methods_give_fit_and_functions_the_same_signals(method: str) -> None:
    from maskc.train import update_pruning_signals

    model, other = fresh(), fresh()
    loop(model, pruning(model, method=method, decay=0.5, prune_every=100), steps=3, update_params=False)
    x, y = data(other, count=12)
    for start in range(0, 12, 4):
        with tf.GradientTape() as tape:
            loss = LOSS(y[start : start + 4], other(x[start : start + 4], training=True))
        update_pruning_signals(loss, 0.5, other, method, tape=tape)
    for ours, theirs in zip(model.layers, other.layers, strict=True):
        if isinstance(ours, MaskLayer):
            np.testing.assert_allclose(ours.signal.numpy(), theirs.signal.numpy(), rtol=1e-5, atol=1e-9)
            assert ours.signal.numpy().any()
