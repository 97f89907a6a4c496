"""What a pruning optimizer says of itself follows from the masks as they are, and it says how far it goes."""

import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maskc.errors import InputError, PruningWarning
from maskc.results.measurements import Latency
from maskc.train import MaskLayer, Pruned, PruningCallback, PruningOptimizer, at_target, computational_cost
from maskc.train.mask_layer import mask_layers
from tests.maskc.train.networks import compiled, compiled_flops, data, mlp, wide

# Masks that are set by others


@pytest.mark.slow
def test_masks_that_are_restored_are_pruned_again(tmp_path: Path) -> None:
    """As `EarlyStopping(restore_best_weights=True)` does, or `load_weights`."""
    model = mlp()
    optimizer = compiled(model, prune_every=1, flops_target=0.5)
    x, y = data(model, 32)
    weights = model.get_weights()
    model.fit(x, y, batch_size=4, verbose=0)
    assert optimizer.reached and optimizer.flops is not None
    pruned = optimizer.flops
    model.set_weights(weights)
    full = computational_cost(model).flops()
    assert not optimizer.reached
    assert optimizer.flops == full > 2 * pruned - full * 0.2
    model.fit(x, y, batch_size=4, verbose=0)
    assert optimizer.reached
    assert optimizer.flops == compiled_flops(model, tmp_path / "model") <= 0.5 * full


@pytest.mark.slow
def test_what_weights_add_to_the_count_depends_on_the_masks(tmp_path: Path) -> None:
    """TensorFlow puts this mask into the weights of the normalisation, where few channels do not pay for a Gather."""
    inputs = keras.Input((4,))
    x = MaskLayer()(layers.RMSNormalization()(layers.Dense(16, activation="relu")(inputs)))
    model = keras.Model(inputs, layers.Dense(16)(x))
    optimizer = PruningOptimizer("sgd", flops_target=0.75, schedule="one-shot", prune_every=2)
    model.compile(optimizer, "mse")
    with warnings.catch_warnings(action="error", category=PruningWarning):
        model.fit(np.ones((40, 4)), np.ones((40, 16)), batch_size=4, verbose=0)
    assert optimizer.flops == compiled_flops(model, tmp_path / "model") and optimizer.reached


@pytest.mark.filterwarnings("ignore::maskc.errors.PruningWarning")
@pytest.mark.parametrize("target", [1, pytest.param(10**9, marks=pytest.mark.slow)])
def test_a_target_that_is_reached_from_the_start(target: float, tmp_path: Path) -> None:
    """Biases are zero before training, and not after it."""
    model = mlp()
    optimizer = compiled(model, prune_every=1, flops_target=target)
    x, y = data(model)
    model.fit(x, y, epochs=3, verbose=0)
    assert optimizer.reached
    assert optimizer.flops == compiled_flops(model, tmp_path / "model")


# Logs


@pytest.mark.parametrize("steps", [1, 3])
def test_fit_shows_flops_and_channels(steps: int) -> None:
    model = mlp()
    optimizer = compiled(model, prune_every=1, flops_target=0.5)
    x, y = data(model, 24)
    history = model.fit(x, y, batch_size=24 // steps, epochs=4, validation_data=(x, y), verbose=0).history
    assert set(history) == {"loss", "val_loss", "flops", "flops_target", "channels"}
    assert len(history["flops"]) == len(history["channels"]) == 4
    assert history["flops"][-1] == optimizer.counted
    assert history["channels"][-1] == sum(float(np.sum(layer.mask)) for layer in mask_layers(model))
    assert history["channels"][0] > history["channels"][-1]
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) == {"loss"}


@pytest.mark.slow
def test_the_callback_tells_of_each_decision(tmp_path: Path) -> None:
    model = mlp()
    optimizer = compiled(model, prune_every=2, flops_target=0.5)
    x, y = data(model, 48)
    told: list[Pruned] = []
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[PruningCallback(told.extend, tmp_path / "logs")])
    assert tuple(told) == optimizer.history != ()
    assert list((tmp_path / "logs").iterdir())


# How far


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"flops_target=0\.5"),
        ({"flops_target": 1.5}, r"cannot be reached: .* still has 18 FLOPs, and the target is 1\."),
        ({"flops_target": 10}, "Up to 1 it is a fraction"),
        ({"flops_target": 0.5, "min_channels": 6}, r"as few channels as masks may keep \(min_channels=6\)"),
    ],
    ids=["nothing", "too little", "a percentage", "channels that may not go"],
)
def test_how_far_must_be_said(options: dict[str, Any], words: str) -> None:
    model = mlp()
    compiled(model, **options)
    weights = model.get_weights()
    with pytest.raises(InputError, match=words):
        model.fit(*data(model), verbose=0)
    np.testing.assert_equal(model.get_weights(), weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prune_every": 30}, r"fit makes 8 updates, and the first pruning comes after 30 .*nothing will be pruned"),
        ({"prune_every": 3}, r"at least 12 to reach flops_target: it will not be reached.*burn_in or prune_every;"),
        ({"prune_every": 3, "schedule": "linear", "ramp": 20}, r"takes at least 21 to .*prune_every or ramp\.$"),
        ({"flops_target": 1e6}, "flops_target is 1,000,000, .* has 168 FLOPs as it is: nothing will be pruned"),
        ({"schedule": None}, r"first pruning comes after 100 .*nothing will be pruned"),
        ({"prune_every": 1}, None),
        ({}, None),
        ({"burn_in": 2}, None),
        ({"ramp": 6}, None),
    ],
)
def test_what_fit_will_not_reach_is_said_before_and_after(options: dict[str, Any], words: str | None) -> None:
    model = mlp()
    optimizer = compiled(model, **{"flops_target": 0.5, **options})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*data(model, 32), batch_size=8, epochs=2, verbose=0)
    of_pruning = [warning for warning in caught if warning.category is PruningWarning]
    assert {warning.filename for warning in of_pruning} <= {__file__}
    said = [str(warning.message) for warning in of_pruning]
    assert optimizer.reached == (words is None or "as it is" in words)
    assert len(said) == (0 if words is None else 2 - optimizer.reached)
    if words is not None:
        assert re.search(words, said[0])
    if len(said) == 2:
        assert re.search(r"fit ended .* flops_target is 84\. It takes at least \d+ more", said[1])


def test_a_fit_of_unknown_length_is_known_after_an_epoch() -> None:
    model = mlp()
    compiled(model, flops_target=0.2, prune_every=3)
    x, y = data(model, 32)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).filter(lambda x, y: True)
    told: list[list[str]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PruningWarning)
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: told.append([str(w.message) for w in caught]))
        model.fit(batches, epochs=3, verbose=0, callbacks=[note])
    words = "fit makes 8 more updates, and pruning takes at least"
    assert [sum(words in each and "steps_per_epoch" in each for each in epoch) for epoch in told] == [0, 1, 1]


@pytest.mark.slow
def test_a_fit_that_goes_on_at_a_later_epoch_comes_to_the_target() -> None:
    """Keras says how many epochs there are in all, and after one which that was."""
    model = mlp()
    optimizer = compiled(model, flops_target=0.5)
    x, y = data(model, 32)
    model.fit(x, y, batch_size=4, epochs=40, initial_epoch=37, verbose=0)
    assert optimizer.reached and optimizer.settings.ramp == 12
    model.fit(x, y, batch_size=4, epochs=80, initial_epoch=78, verbose=0)
    assert optimizer.settings.ramp == 12


@pytest.mark.slow
def test_as_few_as_possible_is_a_target_that_is_reached(tmp_path: Path) -> None:
    x, y = data(mlp(), 32)
    for options in ({}, {"prune_every": 1}):
        model = mlp()
        optimizer = compiled(model, flops_target=0, **options)
        best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True)
        assert not optimizer.reached
        model.fit(x, y, batch_size=4, epochs=4, verbose=0, callbacks=[at_target(best)])
        assert optimizer.reached and [layer.mask.numpy().sum() for layer in mask_layers(model)] == [1, 1]
        assert keras.models.load_model(tmp_path / "best.keras").optimizer.reached


@pytest.mark.parametrize(("target", "words"), [(0.5, r"0\.667 of the time without masks"), (1e-2, None)])
def test_a_latency_that_is_not_what_the_table_predicts(target: float, words: str | None, monkeypatch: Any) -> None:
    monkeypatch.setattr("maskc.train.selection.pruner.table_name", lambda: "avx2")
    slow = Latency((3, 3, 3), (2, 2, 2), 20, {}, 1.5, "cpu")
    monkeypatch.setattr("maskc.train.selection.pruner.timed", lambda *given: slow)
    model = wide()
    compiled(model, latency_target=target, align_for="avx2", prune_every=1, schedule="one-shot")
    if words is None:
        with pytest.raises(
            InputError, match=r"latency_target cannot be reached: .* still has [\d.]+ ms of predicted time"
        ):
            model.fit(*data(model), verbose=0)
        return
    with pytest.warns(PruningWarning, match=rf"latency_target is 0\.5, and was missed: .* the model takes {words}\."):
        history = model.fit(*data(model), verbose=0).history
    assert set(history) == {"loss", "ms", "latency_target", "channels"}
    assert model.optimizer.ms == pytest.approx(history["ms"][-1]) and history["ms"] <= history["latency_target"]


@pytest.mark.slow
@pytest.mark.parametrize("target", [0, 0.5])
def test_masks_that_can_save_nothing_are_refused(target: float) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, MaskLayer()(layers.Dense(3)(inputs)))
    compiled(model, prune_every=1, flops_target=target)
    with pytest.raises(InputError, match=r"Nothing can be pruned: .* outputs"):
        model.fit(*data(model), verbose=0)
    hidden = MaskLayer(name="hidden")(layers.Dense(6)(inputs))
    model = keras.Model(inputs, MaskLayer(name="outputs")(layers.Dense(3)(hidden)))
    compiled(model, prune_every=1, flops_target=0)
    model.fit(*data(model, 32), batch_size=2, verbose=0)
    assert model.get_layer("outputs").mask.numpy().all() and model.get_layer("hidden").mask.numpy().sum() == 1


@pytest.mark.slow
def test_callbacks_that_look_for_the_best_epoch(tmp_path: Path) -> None:
    """The least pruned is best by a loss: that is said, and `at_target` begins once the target is reached."""
    x, y = data(mlp(), 32)
    for at in (lambda callback: callback, at_target):
        model = mlp()
        compiled(model, prune_every=1, flops_target=0.5)
        best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "channels", mode="max", save_best_only=True)
        stop = keras.callbacks.EarlyStopping("channels", patience=6, mode="max", restore_best_weights=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(x, y, batch_size=32, epochs=20, callbacks=[at(best), at(stop)], verbose=0)
        said = [str(warning.message) for warning in caught if warning.category is PruningWarning]
        flops = [computational_cost(m).flops() for m in (model, keras.models.load_model(tmp_path / "best.keras"))]
        if at is at_target:
            assert not said and max(flops) <= 84 and stop.stopped_epoch > 6
        else:
            assert len(said) == 1 and "set back" in said[0] and "at_target" in said[0] and min(flops) > 84
    model = mlp()
    compiled(model, prune_every=1, flops_target=0.5)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "channels", mode="max", save_best_only=True)
    with pytest.warns(
        PruningWarning, match="last saved or compiled before it came to the target, with 1[0-9]{2} FLOPs.*at_target"
    ):
        model.fit(x, y, batch_size=32, epochs=10, callbacks=[best], verbose=0)


@pytest.mark.parametrize("method", ["fisher", "magnitude"])
def test_a_loss_that_masks_mean_nothing_to_is_said_once(method: str) -> None:
    model = mlp()
    optimizer = PruningOptimizer("adam", prune_every=1, flops_target=0.3, method=method, schedule=None)
    model.compile(optimizer, lambda y, predicted: keras.ops.mean(predicted * 0, -1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*data(model, 64), batch_size=4, verbose=0)
    said = [str(warning.message) for warning in caught if "importance score is 0" in str(warning.message)]
    assert len(said) == (method == "fisher")


def test_words_in_whatever_case() -> None:
    assert PruningOptimizer("sgd", flops_target=0.5, flops_weight="AUTO").settings.flops_weight == "auto"


def test_a_frozen_mask_that_is_zeroed_by_hand_counts() -> None:
    """It belongs to no group that could be removed."""
    model = mlp()
    frozen, free = mask_layers(model)
    frozen.trainable = False
    optimizer = compiled(model, prune_every=1000, flops_target=0.9)
    with pytest.warns(PruningWarning, match="Nothing is pruned where masks are frozen: 'first'"):
        model.fit(*data(model), verbose=0)
    frozen.mask.assign(np.zeros(6))
    assert optimizer.flops == computational_cost(model).flops()
    assert free.mask.numpy().all()
