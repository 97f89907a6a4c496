"""The targets, by the names of their folders: each one beside this file that holds a `target.py`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from passes.targets.base import Target
from passes.targets.widths.channel_multiples import Align
from passes.targets.widths.rates import Rates

#: what a model is compiled for where nothing else is said
DEFAULT = "any"


class Kind(Protocol):
    """What the `target.py` of a folder offers.

    TABLES: what widths go by, for each processor; one that is alone is for all. CPU: the provider by which it runs on a
    CPU; "" where it runs on others. make: the target with these widths.
    """

    TABLES: Mapping[str, Rates]
    CPU: str

    def make(self, align: Align | None) -> Target: ...


@cache
def names() -> tuple[str, ...]:
    """The names of all targets, the default first."""
    found = sorted(file.parent.name for file in Path(__file__).parent.glob("*/target.py"))
    return (DEFAULT, *(name for name in found if name != DEFAULT))


@cache
def kind(name: str) -> Kind:
    """The target of this name. Raises ValueError where there is none."""
    if name not in names():
        raise ValueError(f"The target must be one of {', '.join(names())}, and not {name!r}.")
    return cast("Kind", import_module(f".{name}.target", __package__))


def table(name: str, processor: str) -> Rates | None:
    """What widths go by for a target on a processor, by whichever target knows that; None where none does."""
    tables = kind(name).TABLES
    if len(tables) == 1:
        return next(iter(tables.values()))
    known = (kind(each).TABLES for each in (name, *names()))
    return next((found[processor] for found in known if processor in found), None)


@cache
def processors(target: str) -> tuple[str, ...]:
    """The names of the processors that a target has a table for; of the default those that any has."""
    chosen = names() if target == DEFAULT else (target,)
    return tuple(dict.fromkeys(processor for name in chosen for processor in kind(name).TABLES))
