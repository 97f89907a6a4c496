"""Copies of Keras layers from their configuration, with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskc.errors import InputError
from maskc.frontend.tensorflow.keras import reason
from maskc.train.keras_internals import all_layers
from maskc.train.mask_layer import MaskLayer


def copied(operation: Any, changes: Mapping[str, Any] | None = None, kind: Any = None) -> Any:
    """A layer or operation of the same configuration but for these changes, or one of another kind.

    Raises:
        InputError: if it cannot be made from its configuration.
    """
    try:
        config = {**operation.get_config(), **(changes or {})}
        return (kind or type(operation)).from_config(_unbuilt(config))
    except Exception as error:
        raise InputError(
            f"The layer {operation.name!r} cannot be copied by its configuration: {reason(error)}. A "
            f"{type(operation).__name__} needs a get_config that returns all of its arguments, and functions that are "
            "registered with Keras."
        ) from error


def _unbuilt(config: Any) -> Any:
    """A configuration without the shapes that layers in it were built for, as they may be given others."""
    if isinstance(config, dict):
        return {name: _unbuilt(value) for name, value in config.items() if name != "build_config"}
    return [_unbuilt(value) for value in config] if isinstance(config, list) else config


def take_weights(copy: Any, old: Any) -> None:
    """Gives a copy the weights of a layer; masks in the copy that the layer does not have stay as they are."""
    own = [layer for layer in all_layers(copy) if not isinstance(layer, MaskLayer)]
    theirs = [layer for layer in all_layers(old) if not isinstance(layer, MaskLayer)]
    for mine, other in zip(own, theirs, strict=True):
        store: dict[str, Any] = {}
        other.save_own_variables(store)
        mine.load_own_variables(store)
