"""Conversion of dataclasses to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from maskc.errors import InputError


def read_object(path: Path, newest: int, what: str, advice: str) -> dict[str, Any]:
    """The object in a JSON file that has a `schema`, up to the `newest` that is known.

    Raises `InputError` for any other, which says `what` the file is to be and gives `advice`.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_int=_whole)
    except (OSError, ValueError, RecursionError) as error:
        why = "a merge left conflicts in it" if "<<<<<<< " in text else str(error).rstrip(".")
        raise InputError(f"{path} cannot be read as JSON: {why}. {advice}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise InputError(f"{path} is not {what}. {advice}")
    if schema > newest:
        raise InputError(f"{path} has schema {schema}, and this maskc reads up to {newest}. Upgrade maskc.")
    return dict(data)


def _whole(digits: str) -> int:
    """A whole number of no more digits than floating-point numbers hold. Raises ValueError for any other."""
    if len(digits) > 300:
        raise ValueError(f"it has a number of {len(digits):,} digits")
    return int(digits)


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
        return cast(Any, kind)(**{key: parsed(hints[key], item, f"{where}.{key}") for key, item in value.items()})
    if origin in (Union, types.UnionType):
        for each in arguments:
            try:
                return parsed(each, value, where)
            except ValueError:
                if dataclasses.is_dataclass(each) and value is not None:
                    raise
    elif origin is dict and isinstance(value, dict):
        return {key: parsed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    elif origin in (list, tuple) and isinstance(value, list):
        fixed = origin is tuple and arguments[-1] is not ...
        kinds = arguments if fixed else [arguments[0]] * len(value)
        if len(kinds) == len(value):
            return origin(parsed(each, item, where) for each, item in zip(kinds, value, strict=True))
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:
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
    """Dataclasses, tuples and numbers, numpy's as well, as JSON knows them; numbers that are not finite become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return ratio(value)
    return value
