"""Figures about an error, collected over samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from maskc.results.measurements import ErrorHistogram

# Units in the last place are counted at values of at least this share of the scale: at 0 they mean nothing.
_LARGE_ENOUGH = 1e-3

# Edges of the histogram's bins: powers of ten from the smallest error of a double to errors above the scale.
_LOWEST, _HIGHEST = -20.0, 2.0
_STEP = 0.5
_BINS = round((_HIGHEST - _LOWEST) / _STEP)


class Statistics:
    """Largest and mean error of one output, and how often it names the same class."""

    def __init__(self) -> None:
        self.max_abs = 0.0
        self.max_rel = 0.0
        self.scale = 0.0
        #: the largest error in units in the last place; None if the output is not of floating point
        self.ulps: float | None = None
        self._sum = 0.0
        self._count = 0
        self._rows = 0
        self._same = 0
        self._equal = 0
        self._bins: NDArray[np.int64] | None = None

    @property
    def histogram(self) -> ErrorHistogram | None:
        """The errors by magnitude; None for what must be equal, and where nothing could be compared."""
        if self._bins is None:
            return None
        filled = np.flatnonzero(self._bins)
        first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
        counts = tuple(int(count) for count in self._bins[first:last])
        return ErrorHistogram(self._equal, _LOWEST + first * _STEP, _STEP, counts)

    @property
    def compared(self) -> int:
        """The elements that were compared: not those that are NaN or infinite."""
        return self._count

    @property
    def mean_abs(self) -> float:
        """The mean absolute error; of what must be equal, the share of elements that differ."""
        return self._sum / self._count if self._count else 0.0

    @property
    def top1(self) -> float | None:
        """The share of rows whose largest entry is the same one; None if there are no rows of classes."""
        return self._same / self._rows if self._rows else None

    def add(self, error: Distance, wanted: NDArray[Any], got: NDArray[Any]) -> None:
        """Take one sample into account: its `distance`, and two arrays of one shape and type."""
        self.max_abs = max(self.max_abs, error.max_abs)
        self.scale = max(self.scale, error.scale)
        if error.max_abs:
            self.max_rel = max(self.max_rel, error.max_abs / error.scale if error.scale else math.inf)
        if error.exact:
            self._sum += error.max_abs
            self._count += wanted.size
            return
        complex_ = wanted.dtype.kind == "c"
        finite = np.isfinite(wanted)
        errors = np.zeros(int(finite.sum()))
        if error.max_abs:  # copies of what may be large only where they are needed
            wide = np.complex128 if complex_ else np.float64
            values = wanted.astype(wide)[finite]
            errors = np.abs(values - got.astype(wide)[finite])
        self._sum += float(errors.sum())
        self._count += errors.size
        self._count_magnitudes(errors, error.scale)
        if not complex_ and errors.size:
            ulps = _ulps(values, errors, error.scale, wanted.dtype) if error.max_abs else 0.0
            self.ulps = max(self.ulps or 0.0, ulps)
            if wanted.ndim == 2 and wanted.shape[1] > 1 and wanted.shape[0]:
                numbers = ~np.isnan(wanted).any(1)
                self._rows += int(numbers.sum())
                self._same += int((wanted.argmax(1) == got.argmax(1))[numbers].sum())

    def _count_magnitudes(self, errors: NDArray[Any], scale: float) -> None:
        if self._bins is None:
            self._bins = np.zeros(_BINS, np.int64)
        unequal = errors[errors > 0]
        self._equal += errors.size - unequal.size
        with np.errstate(divide="ignore", over="ignore"):  # a scale of 0 makes every error infinitely large
            places = (np.log10(unequal) - np.log10(scale) - _LOWEST) / _STEP
        self._bins += np.bincount(np.clip(places, 0, _BINS - 1).astype(np.int64), minlength=_BINS)


def _ulps(wanted: NDArray[Any], errors: NDArray[Any], scale: float, dtype: np.dtype[Any]) -> float:
    """The largest error in units in the last place, of values that are large enough."""
    large = np.abs(wanted) >= max(_LARGE_ENOUGH * scale, float(np.finfo(np.float32).tiny))
    return float((errors[large] / _spacing(wanted[large], dtype)).max(initial=0.0))


@np.errstate(invalid="ignore", over="ignore")  # beyond the largest number of the type
def _spacing(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The distance between neighbouring numbers of the type, at each value."""
    if dtype.kind == "f" and dtype not in FOREIGN_FLOATS:
        return np.asarray(np.spacing(np.abs(values).astype(dtype)), np.float64)
    return np.asarray(epsilon(dtype) * 2.0 ** np.floor(np.log2(np.abs(values))))


def epsilon(dtype: np.dtype[Any]) -> float:
    """The relative distance between neighbouring numbers, also for the types that numpy does not have."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


# The types of floating point that numpy itself does not know.
FOREIGN_FLOATS = frozenset(np.dtype(type_) for type_ in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn))


@dataclass(frozen=True)
class Distance:
    """The error of an array: `max_abs` and `scale` are the largest absolute error and expected value.

    Of a type that must be `exact`, they are the number of elements that differ and the number of all.
    """

    max_abs: float
    scale: float
    exact: bool


def farthest(expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]) -> float:
    """The largest error of several arrays over their scale; infinite where one is missing or of another shape."""
    largest = 0.0
    for name, array in expected.items():
        error = distance(array, actual[name]) if name in actual else None
        largest = max(largest, math.inf if error is None else error.max_abs / (error.scale or 1.0))
    return largest


def distance(expected: NDArray[Any], actual: NDArray[Any]) -> Distance | None:
    """The error of an array, or None when shape, type, NaNs or infinities differ."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return None
    if expected.dtype.kind not in "fc" and expected.dtype not in FOREIGN_FLOATS:
        return Distance(float(np.count_nonzero(expected != actual)), float(expected.size), True)
    if expected.dtype.kind == "f" and np.array_equal(expected, actual, equal_nan=True):
        finite = np.isfinite(expected)
        largest = (abs(float(end(expected, initial=0, where=finite))) for end in (np.min, np.max))
        return Distance(0.0, max(largest), False)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), actual.astype(wide)
    finite = np.isfinite(left)
    if not np.array_equal(np.where(finite, 0, left), np.where(np.isfinite(right), 0, right), equal_nan=True):
        return None
    left, right = left[finite], right[finite]
    return Distance(float(np.abs(left - right).max(initial=0)), float(np.abs(left).max(initial=0)), False)
