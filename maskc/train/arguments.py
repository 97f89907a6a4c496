"""Checks of arguments, each with a sentence that says what they may be."""

from __future__ import annotations

import functools
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np
import tensorflow as tf

from maskc.errors import InputError, MaskcError
from maskc.frontend.tensorflow.importing import reason
from maskc.inspection.arguments import public
from passes.errors import in_brief
from passes.errors.arguments import fits, shown

Given = ParamSpec("Given")
Result = TypeVar("Result")

VARIABLES = (keras.Variable, tf.Variable)

# Whose objections are about what was given.
_LIBRARIES = {"keras", "tensorflow", "numpy", "optree", "pydantic", *sys.stdlib_module_names}
# What else runs within, but for code of whoever calls maskc.
_OTHERS = {"maskc", "passes", "tf2onnx", "onnx", "h5py", "google", "absl", "ml_dtypes"}


def refusing(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A `public` function that raises `InputError` also for what Keras, TensorFlow or Python object to in it.

    What its own code fails at, or that of whoever calls it, stays what it is: a loss, data, a layer of a user's own.
    """

    @functools.wraps(function)
    def told(*arguments: Given.args, **named: Given.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except MaskcError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename is not None:  # of which `telling` makes a sentence
                raise
            *_, (frame, _) = traceback.walk_tb(error.__traceback__)
            objected = _origin(frame) in _LIBRARIES or _is_looked_at(frame)
            objected |= isinstance(error, UnicodeError)  # of a text that there is not in UTF-8
            if not objected or _is_of_caller(error):
                raise
            name = type(arguments[0]).__name__ if function.__name__ == "__init__" else function.__name__
            if isinstance(error, tf.errors.OpError):  # of data and steps, in their midst
                raise InputError(f"TensorFlow failed in {name}: {reason(error)}.") from error
            raise InputError(f"{name} does not take these arguments: {reason(error)}.") from error

    return public(told)


def _origin(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_looked_at(frame: FrameType) -> bool:
    """Whether an object is asked what it is, which an odd one may object to."""
    return re.fullmatch("__(?!call|getitem|init|iter|next).*__", frame.f_code.co_name) is not None


def _is_of_caller(error: Exception) -> bool:
    """Whether code of whoever calls maskc was running in it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(_origin(frame) not in _LIBRARIES | _OTHERS and not _is_looked_at(frame) for frame in frames)


class Refusing:
    """A Keras layer that says in a sentence why it cannot be made so, or called on what it is called on."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:  # noqa: D102
        return cls._refusing("made of these arguments", super().__new__, (cls, *arguments), named)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._refusing("made of these arguments", super().__init__, arguments, named)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Returns what the layer makes of its inputs."""
        return self._refusing("called on these inputs", super().__call__, arguments, named)  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Returns a layer by its configuration."""
        return cls._refusing("made of this configuration", super().from_config, (config,), {})  # type: ignore[misc]

    @classmethod
    def _refusing(cls, what: str, call: Callable[..., Any], arguments: Any, named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except MaskcError:
            raise
        except Exception as error:
            if isinstance(error.__context__, MaskcError):  # which Keras has put a page around
                raise error.__context__ from None
            if _is_of_caller(error):
                raise
            why = reason(error).removeprefix(f"layer {cls.__name__}: ")
            raise InputError(f"{cls.__name__} cannot be {what}: {why}.") from error


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of Python's or numpy's, and not a bool."""
    return not isinstance(value, bool) and fits(float, value) and math.isfinite(value)


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raises InputError if `value` is not of this kind, or one of these kinds, which is `what`."""
    if not isinstance(value, kind):
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


def path_of(name: str, value: Any) -> Path:
    """Returns a path, or raises InputError."""
    if not fits(str | os.PathLike, value) or value == "":
        raise InputError(f"{name} must be a path, not {shown(value)}.")
    return Path(value)


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
    try:
        sizes: tuple[int | None, ...] = () if shape is None else tuple(shape)
    except Exception:  # of what is no shape
        sizes = ()
    rank = len(sizes)
    channels = sizes[axis] if rank > 1 and -rank < axis < rank else None
    if channels is None or not fits(int, channels) or channels < 0:
        given = "something that is no tensor, or one of unknown rank" if shape is None else f"one of {shown(sizes)}"
        raise InputError(
            f"{layer} needs an input of shape (batch, ..., channels) with a known number of channels, not {given}."
        )
    return channels


def restore(name: str, store: Any, variables: Iterable[Any]) -> None:
    """Assigns what was saved of a layer or an optimizer, by the number of the variable, or raises InputError."""
    for number, variable in enumerate(variables):
        variable.assign(stored(name, store, str(number)))


def stored(name: str, store: Any, key: str) -> Any:
    """Returns the array that was saved of a layer or an optimizer under this key, or raises InputError."""
    try:
        return np.asarray(store[key])
    except Exception as error:  # of whatever a file may hold
        raise InputError(f"What was saved is not the state of {name!r}: {reason(error)}.") from error


def compiled(model: Any, *arguments: Any, **named: Any) -> None:
    """Compiles a Keras model, or raises InputError."""
    try:
        model.compile(*arguments, **named)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"The model {model.name!r} cannot be compiled: {in_brief(error)}.") from error
