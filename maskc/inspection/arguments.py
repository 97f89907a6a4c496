"""Arguments of public functions, checked by their annotations before anything else is done."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from maskc.errors import InputError, telling
from passes.errors.arguments import checks_of

Given = ParamSpec("Given")
Result = TypeVar("Result")


def public(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that raises `InputError` for arguments of wrong types, and for what `telling` makes one of."""
    wrong = checks_of(function)

    @functools.wraps(function)
    def checked(*arguments: Given.args, **named: Given.kwargs) -> Result:
        if sentence := wrong(*arguments, **named):
            raise InputError(sentence)
        with telling():
            return function(*arguments, **named)

    return checked
