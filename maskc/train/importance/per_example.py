"""What the importance of mask entries is estimated from: per-example gradients of a mask, and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras
import tensorflow as tf

from maskc.train.importance.methods import Method

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Gathering:
    """How a pruning optimizer wants importance estimated: by which method, for which loss.

    `reduction` is None if it is not known how the loss is reduced over the batch.
    """

    method: Method
    reduction: Reduction | None


def masked(inputs: Any, mask: Any, copies: Any) -> Any:
    """Returns `inputs · mask`, of which `copies` takes the derivatives by each example's own copy of the mask.

    The product does not depend on the value of `copies`. The backward pass has everything at hand that the per-example
    gradients of a mask need: example n's derivative by its own mask entry c is the sum over positions of
    `upstream · inputs`. So the mask is never repeated.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def multiply(inputs: Any, mask: Any, copies: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, None, Any]:
            return upstream * mask, None, per_example(inputs, upstream)

        return inputs * mask, gradient

    return multiply(inputs, mask, copies)


def copies_of(score: Any, batch: Any, gathering: Gathering | None) -> Any:
    """Returns zeros of shape `(batch, channels)` whose gradients become that of `score`: what the optimizer is to know.

    The gradient is the `root` of the statistic, which is proportional to the loss.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def repeat(score: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            if gathering is None or gathering.method.reads != "gradients":
                return tf.zeros_like(score)
            losses = upstream * per_loss(tf.shape(upstream)[0], gathering.reduction or "mean")
            return tf.stop_gradient(gathering.method.root(gathering.method.statistic(losses)))

        return tf.zeros((batch, score.shape[0]), score.dtype), gradient

    return repeat(score)


def per_example(inputs: Any, upstream: Any) -> Any:
    """Returns the derivatives of the batch's loss by each example's own copy of the mask.

    Args:
        inputs: what the mask multiplies, of shape `(batch, ..., channels)`.
        upstream: the derivative of the batch's loss by the product, of the same shape.

    Returns:
        A float32 tensor of shape `(batch, channels)`.
    """
    product = tf.cast(inputs, tf.float32) * tf.cast(upstream, tf.float32)
    # One axis after the other: TensorFlow adds rows that lie side by side faster than it gathers channels over a map.
    for _ in range(product.shape.rank - 2):
        product = tf.reduce_sum(product, axis=1)
    return product


def per_loss(batch: Any, reduction: Reduction) -> Any:
    """Returns what a derivative of the batch's loss is multiplied by to be one of the example's own loss.

    Args:
        batch: examples on this replica, equally many on all of them.
        reduction: "mean" if the losses of the replicas add up to the mean of all examples' losses, "sum" if to their
            sum. That is how Keras divides them in `fit`.
    """
    if reduction == "sum":
        return tf.constant(1.0)
    return tf.cast(batch * tf.distribute.get_strategy().num_replicas_in_sync, tf.float32)


def activity(inputs: Any) -> Any:
    """Returns the mean size of what a mask multiplies over each example's positions: float32 `(batch, channels)`."""
    return tf.reduce_mean(tf.abs(tf.cast(inputs, tf.float32)), axis=list(range(1, inputs.shape.rank - 1)))


def loss_reduction(model: Any) -> Reduction | None:
    """Returns "sum" or "mean" as the loss given to `model.compile` adds up examples or averages them.

    Names of losses and plain functions are averaged by Keras. Returns None where there is no telling: the
    model is not compiled with a loss (a custom training step, `add_loss`), or its outputs' losses are
    reduced in different ways.
    """
    losses = [loss for loss in keras.tree.flatten(getattr(model, "loss", None)) if loss is not None]
    # Without a reduction the loss stays a vector, and differentiating a vector differentiates its sum.
    sums = {isinstance(loss, keras.losses.Loss) and loss.reduction in ("sum", "none", None) for loss in losses}
    if len(sums) != 1:
        return None
    return "sum" if sums.pop() else "mean"
