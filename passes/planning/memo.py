"""Memo of computed values, which can be switched off."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """Values by all that they depend on: each computed once, or anew every time where the memo is off."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._values: dict[Hashable, Value] = {}

    def value(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value for this key."""
        if not self._on:
            return compute()
        if key not in self._values:
            self._values[key] = compute()
        return self._values[key]
