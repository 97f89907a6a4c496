"""Dataclass fields that are command-line options, each with its help text."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

_KEY = "option"

Options = TypeVar("Options")


@dataclass(frozen=True)
class Option:
    """A field as an option of the command line.

    `flags` are by default made of the field's name. `kind` is the type on the command line, by default that of the
    field, and `parse` makes the field's value of it. `details` are typer's: metavar, min, max, show_default.
    """

    help: str
    flags: tuple[str, ...]
    kind: Any
    parse: Callable[[Any], Any] | None
    details: dict[str, Any]
    default: Any


def option(
    default: Any, help: str, *flags: str, kind: Any = None, parse: Callable[[Any], Any] | None = None, **details: Any
) -> Any:
    """A dataclass field that is a command-line option; a default of `...` is for one that is required."""
    found = Option(help, flags, kind, parse, details, default)
    return field(default=dataclasses.MISSING if default is ... else default, metadata={_KEY: found})


def options_of(kind: type) -> dict[str, Option]:
    """The command-line options among the fields of a dataclass, by name, none for another class."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return {item.name: _with_kind(kind, item) for item in fields if _KEY in item.metadata}


def from_arguments(kind: Callable[..., Options], given: Mapping[str, Any], **others: Any) -> Options:
    """A dataclass of options, filled with those of a function's arguments that it has fields for, and with others."""
    names = {item.name for item in dataclasses.fields(cast(Any, kind))}
    return kind(**{name: value for name, value in given.items() if name in names} | others)


def _with_kind(kind: type, item: dataclasses.Field[Any]) -> Option:
    found: Option = item.metadata[_KEY]
    if found.kind is not None:
        return found
    owner = next(each for each in kind.__mro__ if item.name in vars(each).get("__annotations__", ()))
    return dataclasses.replace(found, kind=eval(str(item.type), vars(sys.modules[owner.__module__])))
