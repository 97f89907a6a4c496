"""The signals of masks by the plain method: one copy of the mask for each example, and a gradient for each copy."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def extend_mask(mask: Any, batch: int, rank: int) -> Any:
    """The mask of shape `(channels,)` once for each example: `(batch, 1, ..., channels)`, of the rank given."""
    return tf.tile(tf.reshape(mask, (1,) * (rank - 1) + (-1,)), (batch, *[1] * (rank - 1)))


def per_example_gradients(
    forward: Callable[[list[Any]], Any], masks: Sequence[np.ndarray], ranks: Sequence[int], batch: int, reduction: str
) -> list[np.ndarray]:
    """Derivatives of each example's loss by its own copies: float64 `(batch, channels)` for each mask.

    `forward` takes the copies and returns the loss of the batch, reduced as `reduction` says.
    """
    copies = [extend_mask(tf.constant(mask), batch, rank) for mask, rank in zip(masks, ranks, strict=True)]
    with tf.GradientTape() as tape:
        tape.watch(copies)
        loss = forward(copies)
    scale = batch if reduction == "mean" else 1
    gradients = tape.gradient(loss, copies)
    return [g.numpy().astype(np.float64).reshape(batch, -1) * scale for g in gradients]


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
