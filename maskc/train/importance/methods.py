"""The importance of a mask entry (Fisher, Taylor, magnitude, random): one rule for each method, under one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

from maskc.errors import InputError

Tensors = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Method:
    """How importance is estimated.

    Attributes:
        reads: "gradients" for `d l_n / d mask_n[c]`, the derivative of example n's loss by its own copy of the
            mask; "activations" for the mean of `|x|` over the positions of example n, where x is what the mask
            multiplies; "nothing" where scores are drawn once, from a seed.
        statistic: of float32 values of shape `(batch, channels)`, the score from one batch, of shape `(channels,)`:
            a mean over examples, so that the mean over replicas of equal batches is that of one large batch.
        root: makes the statistic proportional to the loss, as a gradient is, so that it may travel as one and whoever
            divides gradients by the scale of a loss is right.
        power: the inverse of `root`.
    """

    reads: Literal["gradients", "activations", "nothing"]
    statistic: Tensors
    root: Tensors = _same
    power: Tensors = _same


def _mean_square(values: Any) -> Any:
    return tf.reduce_mean(tf.square(values), axis=0)


def _mean_size(values: Any) -> Any:
    return tf.reduce_mean(tf.abs(values), axis=0)


METHODS = {
    # Theis et al. 2018 (arXiv 1801.05787), without their constant factor 1/2: the rise of the loss, to second order,
    # with the curvature estimated by the Fisher information.
    "fisher": Method("gradients", _mean_square, tf.sqrt, tf.square),
    # Molchanov et al. 2017 (arXiv 1611.06440): the change of the loss to first order, its size taken for each example.
    # Summed over positions, since a mask's entry removes all of them, and not normalised by layer.
    "taylor": Method("gradients", _mean_size),
    # The mean size of the activations that the mask multiplies, over examples and positions: a baseline of Molchanov et
    # al. 2017 ("mean activation").
    "magnitude": Method("activations", _mean_size),
    # Uniform in (0, 1), drawn once for each entry.
    "random": Method("nothing", _same),
}


def canonical(name: str) -> str:
    """Returns the key of `METHODS` for a method's name, in whatever case.

    Raises:
        InputError: if there is no such method.
    """
    found = name.lower() if isinstance(name, str) else name
    if found not in METHODS:
        raise InputError(f"method must be one of {', '.join(map(repr, METHODS))}, not {name!r}.")
    return str(found)


def random_scores(seed: int, index: int, channels: int) -> Any:
    """Returns the scores of the method "random" for mask number `index`: float32, of shape `(channels,)`."""
    return tf.random.stateless_uniform((channels,), seed=(seed, index))


def mean_over_replicas(values: Sequence[Any]) -> Sequence[Any]:
    """Returns the means over all replicas of a distribution strategy; the values themselves where there is one."""
    context = tf.distribute.get_replica_context()
    if not values or context is None or context.num_replicas_in_sync == 1:
        return values
    return list(context.all_reduce(tf.distribute.ReduceOp.MEAN, list(values)))
