"""Checks of arguments and fields by their annotations, with a sentence that says what they may be."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import operator
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import ArrayLike

Given = ParamSpec("Given")
Result = TypeVar("Result")

# What counts as such a number: those of numpy, and whole ones where others will do.
_NUMBERS: dict[Any, Any] = {int: (int, np.integer), float: (int, float, np.integer, np.floating)}

# How many arguments a function takes.
_COUNTS = ("no arguments", "one argument", "two arguments", "three arguments")

# Of a value that does not fit no more is shown.
_LONGEST = 100

_WORDS: dict[Any, str] = dict(
    zip(
        (int, float, str, Literal, Path, os.PathLike, Callable, np.ndarray, Mapping, Sequence, Iterable),
        "whole number,number,text,text,path,path,function,array,mapping,sequence,sequence".split(","),
        strict=True,
    )
)


def typed(function: Callable[Given, Result], error: type[Exception] = TypeError) -> Callable[Given, Result]:
    """A function that raises an error for arguments that are not of the types of its annotations.

    Which of the numbers and texts an argument can be is for the function itself to check.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*arguments: Given.args, **named: Given.kwargs) -> Result:
        given: dict[str, Any] = {}
        with contextlib.suppress(TypeError):  # which the call itself raises, with the function's name
            given = signature.bind(*arguments, **named).arguments
        if sentence := _misfit(_hints(function), given):
            raise error(sentence)
        return function(*arguments, **named)

    return checked


def check_fields(value: Any, error: type[Exception] = TypeError) -> None:
    """Raises an error for a field of a dataclass that is not of the type of its annotation."""
    hints = _hints(value.__class__)
    if sentence := _misfit(hints, {name: getattr(value, name) for name in hints}):
        raise error(sentence)


def _misfit(hints: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What says which value is of another type than annotated, in a sentence; "" if none is."""
    for name, value in given.items():
        hint = hints.get(name, Any)  # `self` has none
        if not fits(hint, value):
            return f"`{name}` must be {_words(hint)}, and not {shown(value)}."
    return ""


@functools.cache
def _hints(annotated: Any) -> dict[str, Any]:
    return get_type_hints(annotated)


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type; one that raises when it is looked at is of none."""
    try:
        return _is_of(hint, value)
    except Exception:
        return False


def _is_of(hint: Any, value: Any) -> bool:
    """The same, as far as that can be seen: most protocols and type variables take anything; may raise instead."""
    if hint is Any:
        return True
    if isinstance(value, (str, os.PathLike)) and b"\0" in os.fsencode(value):  # no file can have that name
        return False
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(part, value) for part in parts)
    if kind is Literal:
        kind = str
    if kind is Mapping:
        return isinstance(value, Mapping) and all(
            _is_of(parts[0], key) and _is_of(parts[1], item) for key, item in value.items()
        )
    if kind is Sequence:
        return (
            not isinstance(value, (str, bytes))
            and isinstance(value, Sequence)
            and all(_is_of(parts[0], item) for item in value)
        )
    if kind is Callable:
        return callable(value) and _takes(value, parts)
    if kind is Iterable:
        operator.length_hint(value)  # raises for a length that is none
        if getattr(value, "shape", None) == ():
            return False  # an array without axes, which says that it can be gone through
    unseen = getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)
    if not isinstance(kind, type) or unseen:
        return True
    if isinstance(value, (bool, np.bool_)):
        return kind in (bool, object)
    if kind is float:
        float(value)  # raises for what is no number, or too large for one
    return isinstance(value, _NUMBERS.get(kind, kind)) and not isinstance(value, np.timedelta64)


def _takes(function: Callable[..., Any], parts: tuple[Any, ...]) -> bool:
    """Whether a function can be called with so many arguments as its type has, as far as that is known."""
    if not parts or not isinstance(parts[0], list):
        return True
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some that are written in C
        return True
    try:
        signature.bind(*parts[0])
    except TypeError:
        return False
    return True


def _words(hint: Any, many: bool = False) -> str:
    """What a type is called, each of several once."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        paths = any((get_origin(part) or part) is os.PathLike for part in parts)  # a path can be a text
        found = dict.fromkeys(
            _words(part, many) for part in parts if not ((paths and part is str) or _is_internal(part))
        )
        return (", or " if any(" or " in each for each in found) else " or ").join(found)
    if kind in (bool, NoneType):
        return "True or False" if kind is bool else "None"
    word, inside = _WORDS.get(kind) or _called(kind), ""
    if kind in (Mapping, Sequence) and parts[-1] is not Any:
        inside = "arrays" if parts[-1] == ArrayLike else _words(parts[-1], True)
    if kind is Callable and parts and isinstance(parts[0], list):
        inside = _COUNTS[len(parts[0])]
    inside = f" of names{' to ' * bool(inside)}{inside}" if kind is Mapping else f"{' of ' * bool(inside)}{inside}"
    return f"{word}s{inside}" if many else with_article(f"{word}{inside}")


def _called(kind: Any) -> str:
    """What a class is called where it can be imported from, or else by its name alone; a protocol in words."""
    name, package = getattr(kind, "__qualname__", str(kind)), kind.__module__.partition(".")[0]
    if getattr(kind, "_is_protocol", False):
        return re.sub("(?<=[a-z])[A-Z]", lambda letter: f" {letter[0].lower()}", name)
    public = getattr(sys.modules.get(package), name, None) is kind and package not in ("builtins", "maskc")
    return f"{package}.{name}" if public else name


def _is_internal(kind: Any) -> bool:
    """Whether a class is one of ours that no package above its own offers."""
    packages = [*itertools.accumulate(getattr(kind, "__module__", "").split("."), "{}.{}".format)]
    offered = any(hasattr(sys.modules.get(package), kind.__name__) for package in packages[:-1])
    return packages[0] in ("maskc", "passes") and not offered and not getattr(kind, "_is_protocol", False)


class _Shown(reprlib.Repr):
    """Texts, numbers and what holds them as Python writes them, and others by what they are."""

    def repr1(self, x: Any, level: int) -> str:
        try:
            return super().repr1(x, level)
        except Exception:  # of what cannot be written, or is another thing than its type is called
            return _of_kind(x)

    def repr_instance(self, x: Any, level: int) -> str:
        plain = x is None or isinstance(x, (str, bytes, int, float))
        return repr(x) if plain else _of_kind(x)


_SHOWN = _Shown()
_SHOWN.maxstring = 60


def shown(value: object) -> str:
    """A value as messages show it."""
    text = _SHOWN.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _of_kind(value: object) -> str:
    return with_article(_WORDS.get(type(value), type(value).__name__))


def with_article(noun: str) -> str:
    """A noun in the singular."""
    return f"{'an' if noun[:1] in tuple('aeiouAEIOU') else 'a'} {noun}"
