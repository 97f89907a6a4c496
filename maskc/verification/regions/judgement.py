"""Errors of a region's result: what is off, relative to which scale, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from maskc.verification.regions.graph import Array

TYPICAL = 64.0  # a scale is at most so many times what a quarter is below: a mask of -1e9 is none
LEAST = 1e-3  # least scale of a slice, relative to the largest


@dataclass
class Judgement:
    """The largest error of a region and what is allowed, relative to the scale of a slice; `at` is its axis and index.

    refuted: by axis, slices of the source's tensor that are not the constants that they were claimed to be. condition:
    of slices, relative to their scale, on the last values on which it was measured. plain: the
    error without regard to it.
    """

    error: float = 0.0
    allowed: float = 0.0
    at: tuple[int, int] | None = None
    why: str = ""
    refuted: dict[int, Array] = field(default_factory=dict)
    condition: Array | None = None
    plain: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether both sides agree."""
        return self.error <= self.allowed

    def take(self, error: Array, axis: int | None) -> None:
        """Note relative errors of elements, and in which slice along the axis the largest is."""
        largest = float(error.max())
        if not largest <= self.error:
            self.error = largest
            self.at = worst(error, axis) if not largest <= self.allowed else None

    def fail(self, why: str) -> None:
        """Note what is no matter of rounding."""
        self.error, self.why = math.inf, why


def others(array: Array, axis: int | None) -> tuple[int, ...]:
    """All axes but this one."""
    return tuple(a for a in range(array.ndim) if a != axis)


def worst(error: Array, axis: int | None) -> tuple[int, int] | None:
    """The axis and the slice along it with the largest error; None where there is no axis."""
    return None if axis is None else (axis, int(error.max(axis=others(error, axis)).argmax()))


def scales(size: Array, axis: int | None) -> Array:
    """The scale of each element: its size and the largest of its slice, unless that is far from typical."""
    largest = size.max(axis=others(size, axis), keepdims=True)
    rows = size.reshape(1, -1) if axis is None else np.moveaxis(size, axis, 0).reshape(size.shape[axis], -1)
    rows = rows[:, :: max(1, rows.shape[1] >> 9)]
    count = (rows > 0).sum(axis=1)
    quarter = np.sort(np.where(rows > 0, rows, np.inf), axis=1)[np.arange(len(rows)), count // 4 * (count >= 8)]
    typical = np.where(count >= 8, TYPICAL * quarter, np.inf).reshape(largest.shape)
    scale = np.minimum(largest, typical)
    return np.asarray(size + np.maximum(scale, LEAST * (float(scale.max()) or 1.0)))
