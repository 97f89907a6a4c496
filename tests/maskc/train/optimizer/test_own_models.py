"""Models that leave sizes open, or whose step or call is a user's own."""

import contextlib
import gc
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maskc.errors import InputError
from maskc.train import MaskLayer, PruningOptimizer, computational_cost, prunable
from tests.maskc.train.networks import compiled

# Sizes that the input leaves open


def convolutional(side: int | None) -> Any:
    inputs = keras.Input((side, side, 3))
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same")(inputs))
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same")(x))
    return prunable(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))


def test_open_sizes_must_be_given() -> None:
    model = convolutional(None)
    compiled(model, flops_target=0.5)
    with pytest.raises(InputError, match=r"leaves sizes open, \(None, None, 3\).*sizes="):
        model.fit(np.zeros((4, 16, 16, 3)), np.zeros(4), verbose=0)


@pytest.mark.slow
def test_flops_are_counted_at_the_sizes_given() -> None:
    model = convolutional(None)
    fixed = computational_cost(convolutional(16)).flops()
    assert fixed < computational_cost(model).flops() / 100
    for sizes in ((16, 16, 3), {model.inputs[0].name: (16, 16, 3)}, [(16, 16, None)]):
        assert computational_cost(model, sizes).flops() == fixed
    optimizer = compiled(model, flops_target=0.5, prune_every=1, sizes=sizes)
    x = np.random.default_rng(0).normal(size=(40, 16, 16, 3))
    model.fit(x, np.arange(40) % 3, batch_size=4, epochs=2, verbose=0)
    assert optimizer.reached
    assert optimizer.flops == computational_cost(model, sizes).flops() <= 0.5 * fixed


@pytest.mark.parametrize("sizes", [(16, 16), (16, 16, 4), [(16, 16, 3)] * 2, {"other": (16, 16, 3)}])
def test_sizes_that_do_not_fit(sizes: Any) -> None:
    with pytest.raises(InputError, match="sizes"):
        computational_cost(convolutional(None), sizes)


# Wrong use, each with a sentence


def test_a_model_whose_call_takes_no_training() -> None:
    class Forgetful(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mask, self.last = layers.Dense(4), MaskLayer(), layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.last(self.mask(self.first(x)))

    model = Forgetful()
    compiled(model, flops_target=0.5)
    with pytest.raises(InputError, match=r"takes no `training`.*training=None"):
        model.fit(np.zeros((4, 3)), np.zeros(4), verbose=0)


class Autoencoder(keras.Model):
    """Made of two models, which its step calls one by one; it has no `call`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (
            keras.Sequential([keras.Input((size,)), layers.Dense(8, "relu"), MaskLayer(), layers.Dense(6 - size)])
            for size in (4, 2)
        )

    def train_step(self, x: Any) -> Any:
        with tf.GradientTape() as tape:
            code = self.encoder(x, training=True)
            decoded = self.decoder(code + keras.random.normal(keras.ops.shape(code)), training=True)
            loss = keras.ops.mean(keras.ops.square(decoded - x))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (lambda model: None, "where a train_step calls parts of its model, pass model="),
        (lambda model: model, "The model 'autoencoder.*' has no `call`.*as keras.Model"),
        (lambda model: keras.Sequential([model.encoder, model.decoder]), None),
    ],
)
def test_a_step_that_calls_parts_of_its_model(whole: Any, words: str | None) -> None:
    model = Autoencoder()
    optimizer = PruningOptimizer("sgd", 1, flops_target=0.5, loss_reduction="mean", model=whole(model))
    gc.collect()  # which must not take the model that was put together for the optimizer alone
    model.compile(optimizer, run_eagerly=True)
    with pytest.raises(InputError, match=words) if words else contextlib.nullcontext():
        model.fit(np.ones((20, 4), np.float32), batch_size=1, verbose=0)
        assert optimizer.reached
