"""Checks of arguments, each with a sentence that says what they may be."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from maskc.errors import InputError
from maskc.frontend.tensorflow.keras import reason
from passes.errors import in_brief
from passes.errors.arguments import fits, shown

VARIABLES = (keras.Variable, tf.Variable)


class Refusing:
    """A Keras layer that says in a sentence why it cannot be called on what it is called on."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Returns what the layer makes of its inputs."""
        wrong = (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError)
        try:
            return super().__call__(*arguments, **named)  # type: ignore[misc]
        except (*wrong, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            name = type(self).__name__
            why = gist(error).removeprefix(f"layer {name}: ")
            raise InputError(f"{name} cannot be called on these inputs: {why}.") from error


def gist(error: Exception) -> str:
    """What Keras or TensorFlow objected to, without the trace of where."""
    if not isinstance(error, tf.errors.OpError):
        return reason(error)
    trace = r"\{\{.*?\}\}|\[\[.*|\[Op:.*|\x1b\[\d*m"
    lines = (re.sub(trace, "", line).strip() for line in str(error.message).splitlines())
    where = ("Graph execution error", "Detected at", "File ", "Stack trace", "Exception encountered")
    return reason(
        ValueError(next((line for line in lines if line and not line.startswith(where)), type(error).__name__))
    )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of Python's or numpy's, and not a bool."""
    return not isinstance(value, bool) and fits(float, value) and math.isfinite(value)


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raises InputError if `value` is not of this kind, or one of these kinds, which is `what`."""
    if not isinstance(value, kind) or (kind is Iterable and getattr(value, "shape", None) == ()):  # none iterates
        raise InputError(f"{name} must be {what}, not {shown(value)}.")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises InputError if `value` is none of these."""
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        *others, last = (f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
        raise InputError(f"{name} must be {', '.join(others)} or {last}, not {shown(value)}.")


def check_count(name: str, value: Any, least: int) -> None:
    """Raises InputError if `value` is no whole number, or less than `least`."""
    if not fits(int, value) or not least <= value <= sys.maxsize:
        raise InputError(f"{name} must be a whole number of at least {least}, not {shown(value)}.")


def check_model(name: str, value: Any) -> None:
    """Raises InputError if `value` is no Keras model."""
    check_kind(name, value, keras.Model, "a Keras model")


def path_of(name: str, value: Any) -> Path:
    """Returns a path, or raises InputError."""
    if not fits(str | os.PathLike, value) or value == "":
        raise InputError(f"{name} must be a path, not {shown(value)}.")
    return Path(value)


def options_of(name: str, value: Any) -> dict[str, Any]:
    """Returns arguments by name, none for None, or raises InputError."""
    value = {} if value is None else value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name} must be a dictionary of arguments by name, not {shown(value)}.")
    return dict(value)


def optimizer_of(value: Any) -> Any:
    """Returns the Keras optimizer that `value` is or names, or raises InputError."""
    try:
        optimizer = keras.optimizers.get(value)
    except Exception:  # of whatever a dictionary may hold
        optimizer = None
    check_kind(
        "The optimizer",
        value if optimizer is None else optimizer,
        keras.optimizers.Optimizer,
        'a Keras optimizer or the name of one, such as keras.optimizers.Adam(1e-3) or "adam"',
    )
    return optimizer


def channels_of(layer: str, shape: tuple[int | None, ...] | None, axis: int = -1) -> int:
    """Returns the channels of an input of this shape, None where Keras knows none, or raises InputError."""
    rank = len(shape or ())
    channels = shape[axis] if shape is not None and rank > 1 and -rank < axis < rank else None
    if channels is None:
        given = "something that is no tensor, or one of unknown rank" if shape is None else f"one of {tuple(shape)}"
        raise InputError(
            f"{layer} needs an input of shape (batch, ..., channels) with a known number of channels, not {given}."
        )
    return channels


def compiled(model: Any, *arguments: Any, **named: Any) -> None:
    """Compiles a Keras model, or raises InputError."""
    try:
        model.compile(*arguments, **named)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"The model {model.name!r} cannot be compiled: {in_brief(error)}.") from error
