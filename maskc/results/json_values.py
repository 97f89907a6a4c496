"""Values of dataclasses as JSON, and back."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints


def parsed(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the type says: a dataclass, a dictionary, a list or tuple, a number, a text, one of several.

    Keys with a default may be missing, and where a float is wanted a whole number will do. `where` is what messages
    call the value. Raises ValueError.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, Mapping) or not _needed(kind) <= set(value) <= set(hints):
            raise ValueError(f"`{where}` needs exactly the keys {', '.join(hints)}")
        return kind(**{key: parsed(hints[key], item, f"{where}.{key}") for key, item in value.items()})  # type: ignore[operator]
    if origin is dict and isinstance(value, dict):
        return {key: parsed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is list and isinstance(value, list):
        return [parsed(arguments[0], item, where) for item in value]
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(parsed(each, item, where) for each, item in zip(kinds, value, strict=True))
    if origin in (Union, types.UnionType):
        for each in arguments:
            try:
                return parsed(each, value, where)
            except ValueError:
                if dataclasses.is_dataclass(each) and value is not None:
                    raise
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind or (kind is types.NoneType and value is None):
        return value
    raise ValueError(f"`{where}` has the wrong type")


def _needed(kind: Any) -> set[str]:
    """Keys that every file has: those without a default, as keys that came later have one."""
    missing = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing}


def ratio(value: float) -> float | None:
    """A factor, or None for an infinite one, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numbers as JSON knows them; numbers that are not finite become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return ratio(value)
    return value
