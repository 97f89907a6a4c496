"""Variance of outputs about the mean of each entry, which errors are measured by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ROUNDING = 1e-5  # of the root mean square
_TINY = 1e-12


class Spread:
    """The variance of samples, which lie along the first axis, about the mean of each entry; sums are kept alone.

    Entries share a mean along axes whose length differs between samples, and all do of a single sample. What is not
    finite is left out.
    """

    def __init__(self) -> None:
        self._sums: Array | None = None  # how many there are of each entry, their sum, and that of their squares

    def add(self, samples: Array) -> None:
        """Some more samples."""
        values = np.atleast_1d(samples).astype(np.float64)
        sound = np.isfinite(values)
        values[~sound] = 0
        sums = np.stack([each.sum(axis=0) for each in (sound, values, np.square(values))])
        self._sums = sums if self._sums is None else _joined(self._sums, sums)

    @property
    def variance(self) -> float:
        """No less than rounding may make of samples that are the same."""
        sums = np.zeros(3) if self._sums is None else self._sums
        count, total, squares = sums if (sums[0] > 1).any() else sums.reshape(3, -1).sum(axis=1)
        apart = squares - np.square(total) / np.maximum(count, 1)
        least = _ROUNDING**2 * squares.sum()
        return max(float(apart.sum()), float(least)) / max(float(count.sum()), 1) + _TINY


def _joined(one: Array, other: Array) -> Array:
    """The sum of both, each summed over the axes along which they differ."""
    if one.ndim != other.ndim:
        one, other = (each.reshape(3, -1).sum(axis=1) for each in (one, other))
    axes = tuple(axis for axis in range(one.ndim) if one.shape[axis] != other.shape[axis])
    return np.asarray(one.sum(axis=axes, keepdims=True) + other.sum(axis=axes, keepdims=True))
