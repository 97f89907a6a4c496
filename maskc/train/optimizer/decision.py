"""One pruning decision within a training step: taken on the host, and carried out on all replicas at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from maskc.train.mask_layer import MaskLayer
from maskc.train.selection.pruner import Pruner


def prune_when_due(pruner: Pruner, layers: Sequence[MaskLayer], step: Any, flops: Any) -> None:
    """Prunes if that is due after update number `step` and the target is not reached; see `prune`."""
    since = tf.convert_to_tensor(step) - pruner.settings.burn_in
    due = tf.logical_and(since > 0, since % pruner.settings.prune_every == 0)
    above = tf.convert_to_tensor(flops) > pruner.target
    tf.cond(tf.logical_and(due, above), lambda: prune(pruner, layers, step, flops), lambda: tf.constant(False))


def prune(pruner: Pruner, layers: Sequence[MaskLayer], step: Any, flops: Any) -> Any:
    """Sets mask entries of `layers` to zero as the pruner decides, and `flops` to what is left; returns True.

    `step` is the variable that counts updates, `flops` an int64 variable that every replica has.
    """
    masks = [tf.convert_to_tensor(layer.mask) for layer in layers]
    scores = [tf.convert_to_tensor(layer.signal) for layer in layers]
    number = tf.cast(tf.convert_to_tensor(step), tf.int64)
    with tf.device("CPU:0"):
        left, *pruned = tf.numpy_function(
            pruner.decide, [number, *masks, *scores], [tf.int64, *(mask.dtype for mask in masks)]
        )
    for layer, mask in zip(layers, pruned, strict=True):
        layer.mask.assign(tf.ensure_shape(mask, layer.mask.shape))

    def recount() -> Any:
        # The conversion reads the weights where they live, so this step's updates must all be done.
        weights = [tf.convert_to_tensor(weight) for weight in pruner.model().weights]
        with tf.control_dependencies(weights), tf.device("CPU:0"):
            return tf.ensure_shape(tf.py_function(pruner.recount, [], tf.int64), ())

    left = tf.ensure_shape(left, ())
    flops.assign(tf.cond(left <= pruner.target, recount, lambda: left))
    return tf.constant(True)
