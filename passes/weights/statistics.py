"""Statistics of weights, of one pass over the elements: slices that are uniform, and where they are zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from passes.graph.tensors import Array, Index, Mask
from passes.weights.streaming import Kept, Lazy

Axes = tuple[int, int]

#: the note that says whether all of the values are finite
FINITE = "finite"


def uniform_slices(values: Lazy, axis: int) -> tuple[Mask, Array]:
    """Slices that hold one value throughout, and the first value of each slice: bool and the weight's type [size]."""
    if isinstance(values, Kept) and values.size == values.shape[axis]:
        elements = values.values.reshape(-1)
        return np.asarray(elements == elements), elements  # what is not a number is like nothing
    if ("line", axis) not in values.notes:  # look at all axes at once: reading is what takes long, but in memory
        lines = [_Line(values, a) for a in ([axis] if isinstance(values, Kept) else range(len(values.shape)))]
        for start, _, block in values.placed():
            for line in lines:
                line.look(block, start)
        values.notes.update({("line", line.axis): line for line in lines})
    found: _Line = values.notes["line", axis]
    return found.mask, found.value


def zeros(values: Lazy, axis: int) -> Mask:
    """Slices that hold nothing but zeros: bool [size]."""
    if not values.size or len(values.shape) < 2:
        mask, value = uniform_slices(values, axis)
        return np.asarray(mask & (value == 0))
    return nonzero(values, (axis, 1 if axis == 0 else 0)).empty


def nonzero(values: Lazy, axes: Axes) -> Nonzero:
    """Where anything is not zero, over the indices along two axes, in that order."""
    if axes[0] > axes[1]:
        return nonzero(values, (axes[1], axes[0])).transposed
    if ("zeros", axes) not in values.notes:
        values.notes["zeros", axes] = _nonzero(values, axes)
    found: Nonzero = values.notes["zeros", axes]
    return found


def _nonzero(values: Lazy, axes: Axes) -> Nonzero:
    if isinstance(values, Kept) and values.size:  # the matrix takes less than they do, and is kept too
        _note_finite(values, values.values)
        return Nonzero.of(_reduced(values.values, axes))
    if values.lead not in axes:
        return Nonzero(*_counts(_matrix(values, axes)), partial(_matrix, values, axes))
    rows, columns = (np.zeros(values.shape[a], np.int64) for a in axes)
    for start, stop, block in values.placed():
        first, second = _place(values, axes, start, stop)
        in_rows, in_columns = _counts(_reduced(block, axes))
        _note_finite(values, block)
        rows[first] += in_rows
        columns[second] += in_columns
    return Nonzero(rows, columns, partial(_matrix, values, axes))


def lowest(values: Lazy) -> float:
    """The least element, not a number if one is not."""
    if "lowest" not in values.notes:
        values.notes["lowest"] = float(np.minimum.reduce([block.min() for block in values.blocks()]))
    found: float = values.notes["lowest"]
    return found


def _note_finite(values: Lazy, block: Array) -> None:
    """To be told of each block of the values, while it is in the caches."""
    values.notes[FINITE] = values.notes.get(FINITE, True) and is_finite(block)


def is_finite(values: Array) -> bool:
    """Whether no element is infinite, or not a number."""
    return bool(np.isfinite(values).all())


def is_filled_with(values: Array | Lazy, value: object) -> bool:
    """Whether all elements are this one."""
    blocks = values.blocks() if isinstance(values, Lazy) else [values]
    return all(np.asarray(block == value).all() for block in blocks)


def peaks(values: Array | Lazy, axis: int) -> Array:
    """The largest magnitude in each slice along an axis, not a number where one is not: the weight's type [size]."""
    others = tuple(a for a in range(len(values.shape)) if a != axis)
    blocks = values.blocks() if isinstance(values, Lazy) else [values]
    found = [np.maximum(b.max(axis=others, initial=0), -b.min(axis=others, initial=0)) for b in blocks]
    return np.concatenate(found) if isinstance(values, Lazy) and axis == values.lead else np.max(found, axis=0)


class _Line:
    """The slices along one axis, as far as they have been seen."""

    def __init__(self, values: Lazy, axis: int) -> None:
        self.axis, self.lead = axis, values.lead
        self.mask = np.full(values.shape[axis], values.size > 0)
        self.value: Array = np.zeros(values.shape[axis], values.dtype)

    def look(self, block: Array, start: int) -> None:
        """Look at a block, whose first slice along `lead` is `start`."""
        slices, others = np.moveaxis(block, self.axis, 0), range(1, block.ndim)
        here = slice(start, start + len(slices)) if self.axis == self.lead else slice(None)
        if self.axis == self.lead or start == 0:
            first: tuple[slice | int, ...] = (slice(None), *(0 for _ in others))
            self.value[here] = slices[first]
        value = np.expand_dims(self.value[here], tuple(others))
        self.mask[here] &= (slices == value).all(axis=tuple(others))  # what is not a number is like nothing


def _matrix(values: Lazy, axes: Axes) -> Mask:
    """Where anything is not zero, over two axes in order; where the weights are in memory it is kept, in bits."""
    shape = [values.shape[a] for a in axes]
    if ("matrix", axes) in values.notes:
        return np.unpackbits(values.notes["matrix", axes], axis=1, count=shape[1]).view(bool)
    matrix = np.zeros(shape, bool)
    for start, stop, block in values.placed():
        matrix[_place(values, axes, start, stop)] |= _reduced(block, axes)
    if not values.on_disk:
        values.notes["matrix", axes] = np.packbits(matrix, axis=1)
    return matrix


def _place(values: Lazy, axes: Axes, start: int, stop: int) -> tuple[slice, slice]:
    """Where the slices along `lead` from `start` to `stop` lie along two axes."""
    first, second = (slice(start, stop) if a == values.lead else slice(None) for a in axes)
    return first, second


def _counts(found: Mask) -> tuple[Index, Index]:
    """How many are set in each row and column of a matrix."""
    return np.count_nonzero(found, axis=1), np.count_nonzero(found, axis=0)


def _reduced(block: Array, axes: Axes) -> Mask:
    """Where anything is not zero, over two axes in the order in which they lie."""
    return np.asarray((block != 0).any(axis=tuple(a for a in range(block.ndim) if a not in axes)))


class Nonzero:
    """`matrix[i, j]`: whether weight (i, j) is not zero, or any of the weights there if there are several.

    `rows` and `columns` are how many are not zero in each row and column. The matrix itself is asked for only where
    that leaves a doubt, as it does where many single weights were pruned.
    """

    def __init__(self, rows: Index, columns: Index, matrix: Callable[[], Mask]) -> None:
        self._rows, self._columns, self._matrix = rows, columns, matrix

    @classmethod
    def of(cls, matrix: Mask) -> Nonzero:
        """From the matrix, which is kept."""
        return cls(*_counts(matrix), lambda: matrix)

    @property
    def matrix(self) -> Mask:
        """bool [rows, columns]."""
        return self._matrix()

    @property
    def empty(self) -> Mask:
        """Rows that hold nothing but zeros: bool [rows]."""
        return np.asarray(self._rows == 0)

    def columns(self, rows: Mask) -> Mask:
        """Columns in which any of these rows has a weight."""
        held, some = self._rows > 0, self._columns > 0
        most, chosen = int(np.count_nonzero(held)), int(np.count_nonzero(held & rows))
        # fewer zeros than such rows, beside those of rows all zeros
        sure = np.asarray(some & (most - self._columns < chosen))
        doubt = 0 < chosen < most and (some & ~sure).any()
        return np.asarray(self.matrix[rows].any(axis=0)) if doubt else sure

    def rows(self, columns: Mask) -> Mask:
        """Rows that have a weight in any of these columns."""
        return self.transposed.columns(columns)

    @property
    def transposed(self) -> Nonzero:
        """The same with rows and columns exchanged."""
        return Nonzero(self._columns, self._rows, lambda: self.matrix.T)
