"""What is said of a model that is saved, compiled or made smaller before pruning was done."""

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

import maskc
from maskc.errors import PruningWarning
from maskc.train import PruningOptimizer, shrink
from maskc.train.mask_layer import mask_layers
from tests.maskc.train.networks import LOSS, compiled, data, mlp


def trained_by_adam() -> Any:
    model = mlp()
    model.compile("adam", LOSS, run_eagerly=True)
    model.fit(*data(model), verbose=0)
    return model


def trained_on_few_batches() -> Any:
    model = mlp()
    compiled(model, prune_every=2, flops_target=0.5)
    for _ in range(3):
        model.train_on_batch(*data(model))
    return model


def trained_until_interrupted() -> Any:
    model = mlp()
    compiled(model, prune_every=2, flops_target=0.5)
    step, left = model.train_step, iter(range(2))

    def train_step(given: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(given)

    model.train_step = train_step
    with contextlib.suppress(KeyboardInterrupt):
        model.fit(*data(model, 64), batch_size=4, verbose=0)
    return model


def trained_by_a_step_without_updates() -> Any:
    class Own(keras.Model):  # type: ignore[misc]
        def train_step(self, given: Any) -> Any:
            x, y = given
            return {"loss": self.compute_loss(x, y, self(x, training=True))}

    plain = mlp()
    model = Own(plain.inputs, plain.outputs)
    compiled(model, flops_target=0.5)
    model.fit(*data(model), verbose=0)
    return model


def trained_and_pruned() -> Any:
    model = trained_by_adam()
    compiled(model, prune_every=1, flops_target=0.5)
    model.fit(*data(model, 64), batch_size=4, verbose=0)
    return model


def trained_when_it_was_smaller() -> Any:
    model = mlp()
    mask_layers(model)[0].mask.assign([1, 0] * 3)
    small = shrink(model, keep_masks=True)
    small.compile("adam", LOSS, run_eagerly=True)
    small.fit(*data(model), verbose=0)
    return small


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "words"),
    [
        (
            trained_by_adam,
            r"^No channel of the model .* is masked: updates by a maskc\.train\.PruningOptimizer",
        ),
        (trained_on_few_batches, r"shrunk before pruning was done: .* flops_target is 84\. It takes at least \d+ more"),
        (trained_until_interrupted, r"shrunk before pruning was done"),
        (trained_by_a_step_without_updates, "^No channel of the model .* and there was none"),
        (trained_and_pruned, None),
        (trained_when_it_was_smaller, None),
        (mlp, None),
    ],
)
def test_what_is_saved_with_nothing_pruned_is_said_once(train: Any, words: str | None, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = train()
        for _ in range(2):
            model.save(tmp_path / "model.keras")
    said = [str(warning.message) for warning in caught if warning.category is PruningWarning]
    if train is trained_by_a_step_without_updates:
        assert re.search(r"^fit ended without an update .* does not call self\.optimizer\.apply", said.pop(0))
    assert len(said) == (0 if words is None else 1)
    assert words is None or re.search(words, said[0])


def test_what_is_compiled_with_nothing_pruned_is_said_once() -> None:
    """Which has lost nothing, whether no epoch was asked for or another optimizer trained."""
    model = mlp()
    compiled(model, flops_target=0.5)
    model.fit(*data(model), epochs=0, verbose=0)
    with pytest.warns(PruningWarning, match=r"^No channel of the model .* is masked"):
        maskc.compile(model, verify=False)
    mask_layers(trained := mlp())[0].mask.assign([1, 0] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PruningWarning)
        for again in (model, trained, small := shrink(trained), keras.Model(small.inputs, small.outputs)):
            maskc.compile(again, verify=False)


def test_finalizing_again_is_no_fit_without_an_update() -> None:
    model = trained_and_pruned()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PruningWarning)
        model.optimizer.finalize_variable_values(model.trainable_variables)


def test_a_fit_that_an_error_ends_is_told_of_when_its_model_is_saved(tmp_path: Path) -> None:
    model = mlp()
    compiled(model, prune_every=2, flops_target=0.5)

    def said() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PruningWarning)
            model.save(tmp_path / "m.keras")
        return [str(warning.message) for warning in caught]

    inside: list[list[str]] = []

    def end(batch: int, logs: Any) -> None:
        inside.append(said())
        if batch == 2:
            raise KeyboardInterrupt

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=end)
    with contextlib.suppress(KeyboardInterrupt):
        model.fit(*data(model, 32), batch_size=4, verbose=0, callbacks=[callback])
    assert inside == [[], [], []]
    (words,) = said()
    assert "Masks are saved, compiled or shrunk before pruning was done" in words
    assert said() == []


@pytest.mark.parametrize("last", [maskc.compile, shrink])
def test_a_loop_that_ended_before_is_told_of_when_a_smaller_model_is_made(last: Any) -> None:
    model = mlp()
    optimizer = PruningOptimizer("sgd", model=model, loss_reduction="mean", prune_every=1, flops_target=0.2)
    x, y = data(model, 8)
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(LOSS(y, model(x, training=True)))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    with pytest.warns(PruningWarning, match="before pruning was done: .* It takes at least [0-9]+ more"):
        last(model)
