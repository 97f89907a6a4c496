"""The pruning optimizer's share of a training step: its model, and decisions on the host.

A decision is carried out on all replicas at once. In a step that XLA compiles the host has no say, so it is taken
before and after.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from maskc.errors import InputError
from maskc.train.arguments import check_kind
from maskc.train.keras_internals import around_executions
from maskc.train.mask_layer import MaskLayer, Pruning, mask_layers
from maskc.train.selection.pruner import Pruner
from passes.errors.arguments import fits, shown


def find_model(layers: Sequence[MaskLayer], given: Any = None) -> Any:
    """Returns the model that was called in the training step in which `layers` estimated importance, or that given.

    Raises InputError if there is no telling the model, if it does not hold all the layers, if no layer estimated
    importance, or if one was called where its calls share nothing.
    """
    for layer in layers:
        if layer.observation is not None and layer.observation.apart:
            raise InputError(
                f"The mask layer {layer.name!r} is called several times in one forward pass, in loops or conditions "
                "apart, so it has no importance score per example: use a separate mask layer at each place."
            )
    if given is not None and type(given).call is keras.Model.call:
        raise InputError(
            f"The model {given.name!r} has no `call`, so its FLOPs cannot be counted: give as model= one that calls "
            "its parts, as keras.Model(x, decoder(encoder(x)))."
        )
    observations = [layer.observation for layer in layers if layer.observation]
    if not observations:
        for model in (given, *(layer.seen_by() for layer in layers)):
            if isinstance(model, keras.Model) and "training" not in inspect.signature(model.call).parameters:
                raise InputError(
                    f"The `call` of the model {model.name!r} takes no `training`, so its masks cannot distinguish "
                    "training from inference: add the argument training=None."
                )
        raise InputError(
            "No mask layer gathered importance scores. In a custom loop, and where a train_step calls parts of its "
            "model, pass model= to PruningOptimizer and call with training=True; any other model that is compiled must "
            "be compiled with this optimizer."
        )
    model = given
    if model is None:
        called = {id(found): found for found in (observation.model() for observation in observations)}
        model = next(iter(called.values())) if len(called) == 1 else None
    if not isinstance(model, keras.Model):
        raise InputError("PruningOptimizer does not know which model's FLOPs to count: pass model=.")
    inside = {id(layer) for layer in mask_layers(model)}
    for layer in layers:
        if id(layer) not in inside:
            raise InputError(f"The model {model.name!r} does not contain the mask layer {layer.name!r}.")
    return model


def act_when_due(pruner: Pruner, layers: Sequence[MaskLayer], step: Any, flops: Any) -> None:
    """Has the pruner decide where that is due after update number `step`; see `prune`.

    During the burn-in it is asked as often, and only looks whether training has diverged.
    """
    since = tf.convert_to_tensor(step) - pruner.settings.burn_in
    due = since % pruner.settings.every == 0
    tf.cond(due, lambda: prune(pruner, layers, step, flops), lambda: tf.constant(False))


def prune(pruner: Pruner, layers: Sequence[MaskLayer], step: Any, flops: Any) -> Any:
    """Sets mask entries of `layers` to zero as the pruner decides, and `flops` to what is left; returns True.

    `step` is the variable that counts updates, `flops` an int64 variable that every replica has. Raises InputError if a
    mask was frozen since its optimizer was built.
    """
    if frozen := [repr(layer.name) for layer in layers if not layer.probe.trainable]:
        raise InputError(
            f"Masks were frozen after their optimizer was built: {', '.join(frozen)}. Go on with a new "
            "PruningOptimizer, which leaves them as they are."
        )
    masks = [tf.convert_to_tensor(layer.mask) for layer in layers]
    scores = [tf.convert_to_tensor(layer.signal) for layer in layers]
    number = tf.cast(tf.convert_to_tensor(step), tf.int64)
    with tf.device("CPU:0"):
        left, *pruned = tf.numpy_function(
            pruner.decide, [number, *masks, *scores], [tf.int64, *(mask.dtype for mask in masks)]
        )
    for layer, mask in zip(layers, pruned, strict=True):
        layer.mask.assign(tf.ensure_shape(mask, layer.mask.shape))
    flops.assign(tf.ensure_shape(left, ()))
    return tf.constant(True)


def settle_around_executions(pruner: Pruner, optimizer: Pruning) -> None:
    """Lets every later execution of `fit` begin and end with what the optimizer has to do outside of it.

    That is to take the decisions that a step compiled by XLA left open, to count with the present weights where the
    target was reached, and to raise what a decision failed at, which TensorFlow would pass on with a page around it.
    """
    pruner.raises = not around_executions(pruner.model(), optimizer, _settle, _interrupted)
    if not pruner.raises:
        optimizer.watch.begin()


def _settle(optimizer: Pruning, data: Any) -> None:
    optimizer.watch.reads(data)
    optimizer.raise_failure()
    optimizer.prune_if_due()
    optimizer.watch.begin()


def _interrupted(optimizer: Pruning, data: Any) -> None:
    # `fit` does not come to its end, where it warns; a notebook keeps its data by the traceback, so these do not tell
    optimizer.watch.watched = False


def differentiated(optimizer: Any, loss: Any, tape: Any, variables: Sequence[Any]) -> tuple[Any, Any]:
    """Returns a loss, or what a function of no arguments computes, and its gradients, scaled where losses are.

    Raises InputError if a tensor comes without the tape that recorded it, or a function needs arguments.
    """
    if callable(loss):
        if not fits(Callable[[], Any], loss):
            raise InputError(f"loss must be a function of no arguments, not {shown(loss)}.")
        with tf.GradientTape() as tape:
            value = loss()
            scaled = optimizer.scale_loss(value)
    else:
        needed = "a tf.GradientTape that the loss is on, where minimize is given no function that computes it"
        check_kind("tape", tape, tf.GradientTape, needed)
        value = scaled = loss
        if optimizer.loss_scale_factor is not None:
            with tape:
                scaled = optimizer.scale_loss(loss)
    return value, tape.gradient(scaled, variables)
