"""Importance scores of mask entries: methods, per-example gradients, activation statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import tensorflow as tf

from maskc.errors import InputError
from maskc.train.arguments import check_choice, is_number
from passes.errors.arguments import shown

#: what statistics are multiplied by to travel as gradients, a power of two
_SMALL = 2.0**-40

Reduction = Literal["mean", "sum"]
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

    Raises InputError if there is no such method.
    """
    found = name.lower() if isinstance(name, str) else name
    check_choice("method", found, tuple(METHODS))
    return str(found)


def update_scores(
    layers: Sequence[Any],
    method: Method,
    decay: Any,
    seed: int,
    *,
    gradients: Callable[[], Iterable[Any]],
    activations: Callable[[], Iterable[Any]],
) -> None:
    """Lets the importance scores of mask layers, their `signal`, follow a batch.

    `gradients` and `activations` return for each layer the statistic of what they are named for, of shape
    `(channels,)`, or None where the batch has none; only that one is called which the method reads.
    """
    if method.reads == "nothing":
        for number, layer in enumerate(layers):
            layer.signal.assign(tf.random.stateless_uniform(layer.signal.shape, seed=(seed, number)))
        return
    statistics = gradients() if method.reads == "gradients" else activations()
    present = [(layer, value) for layer, value in zip(layers, statistics, strict=True) if value is not None]
    means, replica = [value for _, value in present], tf.distribute.get_replica_context()
    if means and replica is not None and replica.num_replicas_in_sync > 1:
        means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, means)
    for (layer, _), mean in zip(present, means, strict=True):
        layer.signal.assign(decay * layer.signal + (1 - decay) * mean)


@dataclass(frozen=True)
class Gathering:
    """How a pruning optimizer wants importance estimated: by which method, for which loss.

    `reduction` is None if it is not known how the loss is reduced over the batch.
    """

    method: Method
    reduction: Reduction | None


def over_axis(values: Any, rank: int, axis: int) -> Any:
    """Returns a vector in the shape in which it lies along one of so many axes."""
    after = rank - 1 - axis % rank
    return tf.reshape(values, (-1, *[1] * after)) if after else values


def masked(inputs: Any, mask: Any, copies: Any, axis: int = -1) -> Any:
    """Returns `inputs · mask`, of which `copies` takes the derivatives by each example's own copy of the mask.

    The mask lies along `axis`. The product does not depend on the value of `copies`. The backward pass has everything
    at hand that the per-example gradients of a mask need: example n's derivative by its own mask entry c is the sum
    over positions of `upstream · inputs`. So the mask is never repeated.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def multiply(inputs: Any, mask: Any, copies: Any) -> Any:
        factor = over_axis(mask, inputs.shape.rank, axis)

        def gradient(upstream: Any) -> tuple[Any, None, Any]:
            return upstream * factor, None, per_example(inputs, upstream, axis)

        return inputs * factor, gradient

    return multiply(inputs, mask, copies)


def copies_of(probe: Any, batch: Any, gathering: Gathering | None) -> Any:
    """Returns zeros of shape `(batch, channels)` whose gradients become that of `probe`: what the optimizer is to know.

    The gradient is the `root` of the statistic, which is proportional to the loss, made so small that it adds nothing
    to the norm of all gradients.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def repeat(probe: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            if gathering is None or gathering.method.reads != "gradients":
                return tf.zeros_like(probe)
            losses = upstream * per_loss(tf.shape(upstream)[0], gathering.reduction or "mean")
            return _SMALL * tf.stop_gradient(gathering.method.root(gathering.method.statistic(losses)))

        return tf.zeros((batch, probe.shape[0]), probe.dtype), gradient

    return repeat(probe)


def statistic_of(gradient: Any, method: Method, scale: float | None) -> Any:
    """Returns the statistic that came as the gradient of a probe, of a loss that was scaled."""
    return method.power(gradient / (_SMALL * (scale or 1.0)))


def per_example(inputs: Any, upstream: Any, axis: int = -1) -> Any:
    """Returns the derivatives of the batch's loss by each example's own copy of the mask: float32 `(batch, channels)`.

    `upstream` is the derivative by the product with the mask, of the shape of `inputs`: `(batch, ..., channels, ...)`,
    with the channels along `axis`.
    """
    if upstream.shape.rank is None:  # as of a function in Python
        upstream = tf.ensure_shape(upstream, inputs.shape)
    product = tf.cast(inputs, tf.float32) * tf.cast(upstream, tf.float32)
    for _ in range(product.shape.rank - 1 - axis % product.shape.rank):
        product = tf.reduce_sum(product, axis=-1)
    # One axis after the other: TensorFlow adds rows that lie side by side faster than it gathers channels over a map.
    for _ in range(product.shape.rank - 2):
        product = tf.reduce_sum(product, axis=1)
    return product


def per_loss(batch: Any, reduction: Reduction) -> Any:
    """Returns what a derivative of the batch's loss is multiplied by to be one of the example's own loss.

    `batch` examples are on each replica, and the losses of the replicas add up to the mean or the sum of all examples'
    losses: that is how Keras divides them in `fit`.
    """
    if reduction == "sum":
        return tf.constant(1.0)
    return tf.cast(batch * tf.distribute.get_strategy().num_replicas_in_sync, tf.float32)


def activity(calls: Sequence[Any], axis: int = -1) -> Any:
    """Returns the mean size of what a mask multiplies over each example's positions: float32 `(batch, channels)`.

    `calls` are what it multiplies in each call of a forward pass, of which the mean is taken.
    """

    def size(inputs: Any) -> Any:
        rank = inputs.shape.rank
        return tf.reduce_mean(tf.abs(tf.cast(inputs, tf.float32)), axis=[a for a in range(1, rank) if a != axis % rank])

    return tf.add_n([size(inputs) for inputs in calls]) / len(calls)


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


def check_decay(decay: Any) -> None:
    """Raises InputError if `decay` is not one of a moving average."""
    if not is_number(decay) or not 0 <= decay < 1:
        raise InputError(f"decay must be at least 0 and less than 1, not {shown(decay)}.")
