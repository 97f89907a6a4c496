"""The signals of masks by the plain method: one copy of the mask for each example, and a gradient for each copy."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from maskc.train import MaskLayer, apply_mask

#: the shape of an input, and stages between which masks stand
STAGES: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]]]] = {
    "dense": ((5,), lambda: [layers.Dense(7, "tanh"), layers.Dense(4, "tanh"), layers.Dense(3)]),
    "conv": (
        (6, 5, 2),
        lambda: [
            layers.Conv2D(4, 3, activation="tanh"),
            layers.Conv2D(5, 2, padding="same", activation="tanh"),
            keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(3)]),
        ],
    ),
    "sequence": (
        (6, 4),
        lambda: [layers.Conv1D(5, 3, padding="causal", activation="tanh"), layers.LSTM(3), layers.Dense(3)],
    ),
    "steps": (
        (6, 4),
        lambda: [
            layers.Conv1D(5, 3, padding="causal", activation="tanh"),
            layers.Conv1D(3, 2, padding="same"),
            layers.Dense(3),
        ],
    ),
}
STATISTICS = {"fisher": lambda g: np.mean(g**2, axis=0), "taylor": lambda g: np.mean(np.abs(g), axis=0)}


class Case:
    """Stages with masks between them, in functions and in a Keras model, and a batch with its loss."""

    def __init__(self, kind: str, reduction: str = "sum_over_batch_size", batch: int = 7) -> None:
        keras.utils.set_random_seed(1)
        shape, build = STAGES[kind]
        self.stages, self.masks = build(), [MaskLayer(), MaskLayer()]
        inputs = keras.Input(shape)
        self.model = keras.Model(inputs, self.forward(inputs))
        for mask in self.masks:
            mask.mask.assign(np.arange(mask.mask.shape[0]) % 3 != 1)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        rng = np.random.default_rng(batch)
        self.x = rng.normal(size=(batch, *shape)).astype(np.float32)
        self.y = rng.integers(0, 3, (batch, *self.model.output_shape[1:-1]))

    def through(self, x: Any, masked: Sequence[Callable[[Any], Any]]) -> Any:
        """What the stages make of inputs, with these functions between them."""
        for stage, function in zip(self.stages[:-1], masked, strict=True):
            x = function(stage(x))
        return self.stages[-1](x)

    def forward(self, x: Any) -> Any:
        return self.through(x, [partial(apply_mask, mask=mask) for mask in self.masks])

    def gradients(self, part: slice = slice(None)) -> list[np.ndarray]:
        """Derivatives of each example's loss by its own copy of each mask: float64 `(batch, channels)`."""
        x, y = self.x[part], self.y[part]
        copies = []
        for mask in self.masks:
            rank = len(mask.input.shape)
            one = tf.reshape(mask.mask, (1,) * (rank - 1) + (-1,))
            copies.append(tf.tile(one, (len(x), *[1] * (rank - 1))))
        with tf.GradientTape() as tape:
            tape.watch(copies)
            loss = self.loss(y, self.through(x, [partial(tf.multiply, copy) for copy in copies]))
        scale = 1 if self.loss.reduction == "sum" else len(x)
        gradients = tape.gradient(loss, copies)
        return [g.numpy().astype(np.float64).reshape(len(x), -1) * scale for g in gradients]

    def fisher(self, part: slice = slice(None)) -> list[np.ndarray]:
        """The mean over examples of the squared gradient."""
        return [STATISTICS["fisher"](gradient) for gradient in self.gradients(part)]

    def check(self, signals: Sequence[np.ndarray], atol: float = 0.0) -> None:
        """The masks have these signals, to an error that may be absolute, as a share of the largest of a mask."""
        for mask, signal in zip(self.masks, signals, strict=True):
            np.testing.assert_allclose(mask.signal.numpy(), signal, rtol=1e-5, atol=atol * signal.max())
