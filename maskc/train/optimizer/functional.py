"""Masks, importance scores and pruning as functions, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from maskc.errors import InputError
from maskc.train.arguments import check_choice, check_count, check_kind, is_number, refusing
from maskc.train.importance import METHODS, Reduction, activity, canonical, check_decay, per_loss, update_scores
from maskc.train.mask_layer import MaskLayer, mask_layers
from maskc.train.selection.ranking import count_of, grouped, live, ranked, uncoupled
from maskc.train.selection.settings import FlopsWeight, check_weight
from passes.errors.arguments import shown

_NEEDED = "apply_mask needs a floating-point tensor of shape (batch, ..., channels)."


@refusing
def apply_mask(tensor: Any, mask: MaskLayer | None = None, *, training: bool | int | None = True) -> Any:
    """Multiplies the channels (the last axis) of a tensor by a binary mask, with the importance of its entries.

    A `MaskLayer` has the mask and its importance scores. Building a Keras model, leave it out: the model keeps the
    layer that is made. With eager tensors and inside `tf.function` nothing would keep it, so give one that you keep.

    Args:
        tensor: a Keras tensor, an eager tensor or one of a graph, floating-point, of shape `(batch, ..., channels)`.
        mask: the layer whose mask it is.
        training: whether importance scores are wanted of this call. Of Keras tensors the model's own call says so.

    Returns:
        `tensor · mask`, of the same kind, shape and dtype.

    Raises:
        InputError: if there is no mask for a tensor that is not a Keras one.

    Example:
        >>> inputs = keras.Input((8,))
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(apply_mask(keras.layers.Dense(16)(inputs))))
        >>> mask = MaskLayer()
        >>> apply_mask(tf.ones((4, 16)), mask)
    """
    symbolic = isinstance(tensor, keras.KerasTensor)
    if mask is None and not symbolic:
        raise InputError("apply_mask needs a mask for a tensor that is not a Keras one: make a MaskLayer and keep it.")
    layer = MaskLayer() if mask is None else mask
    if not symbolic:
        check_kind("tensor", tensor, (tf.Tensor, tf.Variable, keras.Variable, np.ndarray), "a tensor")
        try:
            tensor = tf.convert_to_tensor(tensor)
        except (TypeError, ValueError) as error:  # of arrays of dates or objects
            raise InputError(_NEEDED) from error
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)) or len(tensor.shape) < 2:
        raise InputError(_NEEDED)
    return layer(tensor) if symbolic else layer(tensor, training=training)


@refusing
def update_pruning_signals(
    loss: Any,
    decay: Any = 0.96,
    masks: Any = None,
    method: str = "fisher",
    *,
    tape: Any = None,
    loss_reduction: Reduction = "mean",
    seed: int = 0,
) -> None:
    """Updates the importance scores of masks by a batch: `signal = decay · signal + (1 - decay) · statistic`.

    The masks must have been applied in the forward pass of this loss with `training=True`, and no `PruningOptimizer`
    gathers their scores. Works in eager mode and, together with the forward pass, inside one `tf.function`. Under a
    distribution strategy it is called in each replica, with losses that add up to that of the whole batch.

    Args:
        loss: the loss of a batch, on `tape`; a scalar tensor. Losses that mix examples have no gradient per example.
        decay: of the moving average.
        masks: `MaskLayer`s, or a Keras model that has some.
        method: "fisher", "taylor", "magnitude" or "random", in whatever case; see `maskc.train.importance`.
        tape: the `tf.GradientTape` of the loss, which the gradient methods need; persistent if it is asked again.
        loss_reduction: "mean" or "sum", as the loss averages the examples of a batch or adds them up.
        seed: of the method "random".

    Raises:
        InputError: if there is no such method, no mask, no tape, a mask was not applied, or an argument is out of
            range.

    Example:
        >>> mask, dense = MaskLayer(), keras.layers.Dense(1)
        >>> with tf.GradientTape() as tape:
        ...     loss = tf.reduce_mean(tf.square(dense(apply_mask(x, mask))))
        >>> update_pruning_signals(loss, 0.9, [mask], "fisher", tape=tape)
        >>> prune(None, [mask])
    """
    rule = METHODS[canonical(method)]
    layers = _layers(masks)
    if not tf.is_tensor(decay):
        check_decay(decay)
    check_choice("loss_reduction", loss_reduction, ("mean", "sum"))
    update_scores(
        layers,
        rule,
        decay,
        seed,
        gradients=lambda: map(rule.statistic, _gradients(loss, tape, layers, method, loss_reduction)),
        activations=lambda: [rule.statistic(activity(_passage(layer)[1], layer.axis)) for layer in layers],
    )


def _gradients(loss: Any, tape: Any, layers: Sequence[MaskLayer], method: str, reduction: Reduction) -> list[Any]:
    """The derivative of each example's loss by its own copy of each mask: tensors of shape `(batch, channels)`."""
    copies = [_passage(layer)[0] for layer in layers]
    if tape is None:
        raise InputError(f"The method {method!r} needs the tape of the loss: pass tape=.")
    check_kind("tape", tape, tf.GradientTape, "the tf.GradientTape that the loss is on")
    check_kind("loss", loss, (tf.Tensor, tf.Variable), "a tensor that the tape recorded")
    gradients = tape.gradient(loss, copies)
    for layer, gradient in zip(layers, gradients, strict=True):
        if gradient is None:
            raise InputError(f"The loss does not depend on the mask {layer.name!r}, or the tape did not see it.")
    return [gradient * per_loss(tf.shape(gradient)[0], reduction) for gradient in gradients]


def _passage(layer: MaskLayer) -> tuple[Any, Any]:
    if layer.passage is None:
        raise InputError(
            f"There is nothing to update the importance score of the mask {layer.name!r} from: it was not applied "
            "with training=True, or a PruningOptimizer gathers it."
        )
    return layer.passage


@refusing
def prune(
    signals: Sequence[Any] | None,
    masks: Any,
    n: float = 1,
    *,
    savings: Sequence[Any] | None = None,
    flops_weight: FlopsWeight = 0.0,
    min_channels: int = 1,
) -> list[tuple[int, int]]:
    """Sets the entries of masks to zero that have the lowest importance scores.

    Layers that share `groups` lose an entry together, by the sum of its scores, which counts as one.

    Args:
        signals: an array of shape `(channels,)` for each mask; None for the layers' own scores.
        masks: `MaskLayer`s, a Keras model that has some, or float arrays, which are changed in place.
        n: how many entries, from 1 on; below 1, the fraction of the live ones, rounded down.
        savings: FLOPs that zeroing each entry would save, of the same shapes, as `computational_cost(model).gradient()`
            has them.
        flops_weight: with `savings`, "auto" for the lowest score per FLOP, or a number w for the lowest
            `signal - w · FLOPs`.
        min_channels: the fewest live entries that a mask keeps.

    Returns:
        What was pruned, the least important first, as `(mask, channel)` in numbers.

    Raises:
        InputError: if there is no mask, n is not a number of entries, the shapes differ, or inside `tf.function`.
    """
    if tf.inside_function():
        raise InputError("prune decides on the host: call it outside of tf.function.")
    check_weight(flops_weight)
    check_count("min_channels", min_channels, 0)
    if not is_number(n) or not n >= 0 or (n >= 1 and n != int(n)):
        raise InputError(f"n must be a whole number of entries or a fraction of them below 1, not {shown(n)}.")
    arrays = isinstance(masks, Sequence) and masks and all(isinstance(mask, np.ndarray) for mask in masks)
    if arrays and signals is None:
        raise InputError("Arrays have no importance scores of their own: pass `signals` as well.")
    layers = [] if arrays else _layers(masks)
    if unused := next((layer.name for layer in layers if not layer.built), None):
        raise InputError(f"The mask {unused!r} was not applied to anything as yet, so it has no entries.")
    values = masks if arrays else [layer.mask.numpy().copy() for layer in layers]
    if not all(value.flags.writeable for value in values):
        raise InputError("Arrays of masks are changed in place, and one of these is read-only: give a copy.")
    scores = _numbers([layer.signal for layer in layers] if signals is None else signals)
    flops = [np.zeros(value.shape) for value in values] if savings is None else _numbers(savings)
    shapes = [value.shape for value in _numbers(values)]
    one_axis = all(len(shape) == 1 for shape in shapes)
    if not (one_axis and shapes == [s.shape for s in scores] == [f.shape for f in flops]):
        raise InputError(
            "`masks`, `signals` and `savings` must have the same shapes, one array (channels,) for each mask."
        )
    groups = uncoupled([len(value) for value in values])
    if layers:
        groups = grouped(layers, groups, [True] * len(layers))
    saved = np.zeros(count_of(groups))
    for group, saving in zip(groups, flops, strict=True):
        np.add.at(saved, group, saving)
    count = min(len(saved), int(n)) if n >= 1 else int(n * np.count_nonzero(live(values, groups, len(saved))))
    order = ranked(values, scores, groups, saved, flops_weight, min_channels)
    pruned = [
        (number, channel)
        for chosen in islice(order, count)
        for number, group in enumerate(groups)
        for channel in np.flatnonzero(group == chosen).tolist()
    ]
    for number, channel in pruned:
        values[number][channel] = 0
    for layer, value in zip(layers, values, strict=False):
        layer.mask.assign(value)
    return pruned


def _numbers(given: Sequence[Any]) -> list[NDArray[np.float64]]:
    """The arrays in numbers; raises InputError where they are none, or not finite."""
    try:
        arrays = [np.asarray(each, np.float64) for each in given]
    except (TypeError, ValueError, OverflowError) as error:  # of texts, objects, and rows of unequal lengths
        raise InputError("`masks`, `signals` and `savings` must be arrays of numbers.") from error
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError("Masks, importance scores and savings must be finite: where they are not, training diverged.")
    return arrays


def _layers(masks: Any) -> list[MaskLayer]:
    given = masks if isinstance(masks, (list, tuple)) else ()
    found = mask_layers(masks) if isinstance(masks, keras.Model) else list(given)
    if not found or not all(isinstance(mask, MaskLayer) for mask in found):
        raise InputError("There is no mask: give MaskLayers, or a Keras model that holds some.")
    return found
