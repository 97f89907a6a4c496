"""Copies of Keras layers, with the same weights, and of models of a user's own class, with their attributes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

import keras

from maskc.errors import InputError, warn
from maskc.frontend.tensorflow.importing import reason
from maskc.train.keras_internals import all_layers, in_place_of, made_as_functional
from maskc.train.mask_layer import MaskLayer
from maskc.train.models.calls import is_functional, nodes_within


def copied(
    operation: Any,
    changes: Mapping[str, Any] | None = None,
    kind: Any = None,
    copies: MutableMapping[int, Any] | None = None,
) -> Any:
    """A layer or operation of the same configuration but for these changes, or one of another kind.

    Where it has layers in it that `copies` has copies of, by their ids, it is given these. Those of others that are in
    it, and that `copies` asks for by None, are put there.

    Raises InputError if it cannot be made from its configuration.
    """
    copies = {} if copies is None else copies
    try:
        with in_place_of({number: copy for number, copy in copies.items() if copy is not None}):
            config = {**operation.get_config(), **(changes or {})}
            copy = (kind or type(operation)).from_config(_unbuilt(config))
    except Exception as error:
        own = "" if type(operation).__module__.startswith("keras.") else "a get_config that returns all arguments, and "
        raise InputError(
            f"The layer {operation.name!r} cannot be copied by its configuration: {reason(error)}. A "
            f"{type(operation).__name__} needs {own}functions that are registered with Keras "
            "(keras.saving.register_keras_serializable)."
        ) from error
    if isinstance(operation, keras.Layer):
        within = all_layers(operation), all_layers(copy)
        if [type(layer) for layer in within[0]] == [type(layer) for layer in within[1]]:
            copies.update({id(old): new for old, new in zip(*within, strict=True) if copies.get(id(old), new) is None})
    return copy


def shared_layers(model: Any) -> set[int]:
    """Ids of the layers of a functional model that another one of its layers has in it, or has layers of in it."""
    owners: dict[int, set[int]] = {}
    for operation in _leaves(model):
        for layer in all_layers(operation):
            owners.setdefault(id(layer), set()).add(id(operation))
    return {number for layer, those in owners.items() if len(those) > 1 for number in (layer, *those)}


def check_arguments(model: Any) -> None:
    """Raises InputError if a call in a functional model is given a weight: a copy would be given that of the model."""
    for node in nodes_within(model):
        for argument in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
            if isinstance(argument, keras.Variable):
                raise InputError(
                    f"{node.operation.name!r} is called with the weight {argument.path!r}, and a copy of the model "
                    "would go on reading that one. Write a layer that has the layer of this weight in it, and reads it "
                    "in `call`."
                )


def check_shared(model: Any, shared: Collection[int], copies: Mapping[int, Any], instead: str) -> None:
    """Raises InputError, with what to do instead, if `shared_layers` share weights that their copies do not share."""
    found: dict[int, tuple[Any, Any]] = {}
    for operation in _leaves(model):
        if id(operation) not in shared:
            continue
        for old, new in zip(operation.weights, copies[id(operation)].weights, strict=False):
            other, theirs = found.setdefault(id(old), (operation, new))
            if theirs is not new:
                raise InputError(
                    f"The layers {other.name!r} and {operation.name!r} share the weight {old.path!r}, and copies of "
                    f"them by their configurations would not. {instead}"
                )


def _leaves(model: Any) -> list[Any]:
    """The layers that a functional model calls, and the models in it, each once, but for models."""
    called = {id(node.operation): node.operation for node in nodes_within(model)}
    return [layer for layer in called.values() if isinstance(layer, keras.Layer) and not is_functional(layer)]


def _unbuilt(config: Any) -> Any:
    """A configuration without the shapes that layers in it were built for, as they may be given others."""
    if isinstance(config, dict):
        return {name: _unbuilt(value) for name, value in config.items() if name != "build_config"}
    return [_unbuilt(value) for value in config] if isinstance(config, list) else config


def take_low_rank(copy: Any, old: Any) -> list[tuple[Any, Any]]:
    """Gives a copy of a layer what `enable_lora` gave that, as a configuration may not; returns their layers in pairs.

    Masks that only one of them has are left out.
    """
    own, theirs = all_layers(copy), all_layers(old)
    if len(own) != len(theirs):
        own, theirs = ([layer for layer in side if not isinstance(layer, MaskLayer)] for side in (own, theirs))
    pairs = list(zip(own, theirs, strict=True))
    for mine, other in pairs:
        if getattr(other, "lora_enabled", False):
            if not mine.lora_enabled:  # that of a layer in it
                mine.enable_lora(other.lora_rank)
            mine.lora_alpha = other.lora_alpha  # which Keras makes the rank
    return pairs


def take_weights(copy: Any, old: Any) -> None:
    """Gives a copy the weights of a layer; masks that only one of them has stay as they are."""
    for mine, other in take_low_rank(copy, old):
        store: dict[str, Any] = {}
        other.save_own_variables(store)
        mine.load_own_variables(store)


#: what a class of one's own changes in training
_TRAINING = ("fit", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")

#: attributes that training sets
_SET_IN_TRAINING = {"optimizer", "history", "stop_training", "stop_evaluating", "stop_predicting"}


def alike(model: Any, plain: Any, copies: Mapping[int, Any]) -> Any:
    """Returns a functional model as one of the class of another model, with the attributes that this one was given.

    It is a plain functional model where Keras does not make those of the class of inputs and outputs, so that it could
    not be loaded; a warning says so if the class trains in a way of its own. `copies` are the layers that take the
    places of others, by the ids of these.
    """
    kind = type(model)
    if kind in (type(plain), keras.Sequential):
        return plain
    if not made_as_functional(model):
        own = [name for name in _TRAINING if getattr(kind, name) is not getattr(keras.Model, name)]
        if own:
            warn(
                f"The smaller model of {model.name!r} is a plain functional one, without the {' and '.join(own)} of "
                f"{kind.__name__}, which Keras cannot make of inputs and outputs: its __init__ must take any arguments "
                "(*args, **kwargs), and hand them on."
            )
        return plain
    copy = kind(plain.input, plain.output, name=model.name)
    theirs, within = vars(plain).keys() | _SET_IN_TRAINING, {id(node.operation) for node in nodes_within(model)}
    for name, value in vars(model).items():
        afresh = isinstance(value, keras.metrics.Metric) and type(vars(copy).get(name)) is type(value)  # by its class
        if name.startswith("_") or name in theirs or afresh:
            continue
        if id(value) in copies or id(value) not in within:  # else there is no such layer any more
            setattr(copy, name, copies.get(id(value), value))
    return copy
