"""Arguments of public functions, checked by their annotations before anything else is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from maskc.errors import InputError, telling
from passes.errors.arguments import typed

Given = ParamSpec("Given")
Result = TypeVar("Result")


def public(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that raises `InputError` for arguments of wrong types, and for what `telling` makes one of."""
    return typed(telling()(function), InputError)
