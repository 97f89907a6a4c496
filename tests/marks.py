"""What is tried at each change, and what only before a release."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def before_releases(*values: Any) -> list[Any]:
    """Parameters of a test that are tried by `make test-release` alone."""
    return [pytest.param(value, marks=pytest.mark.release) for value in values]


def often(values: Iterable[Any], rare: Collection[Any]) -> list[Any]:
    """Parameters of a test; those that are rare are tried before a release."""
    return [each for value in values for each in (before_releases(value) if value in rare else [value])]
