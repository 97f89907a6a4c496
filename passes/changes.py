"""Changes that are first planned and then made, all or none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from passes.tensors import Index

#: what is left to do once it is known that all of it can be done
Change = Callable[[], None]


def in_turn(changes: list[Change]) -> Change:
    """All of them."""

    def change() -> None:
        for each in changes:
            each()

    return change


def inverse(order: Index) -> Index:
    """The permutation that undoes this one."""
    result = np.zeros(order.size, np.int64)
    result[order] = np.arange(order.size)
    return result
