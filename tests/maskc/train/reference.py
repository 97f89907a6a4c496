"""The signals of masks by the plain method: one copy of the mask for each example, and a gradient for each copy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


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


STATISTICS = {"fisher": lambda g: np.mean(g**2, axis=0), "taylor": lambda g: np.mean(np.abs(g), axis=0)}
