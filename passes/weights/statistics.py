"""What is known of a weight after one look at each of its elements: its uniform slices, and where it is zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from passes.graph.tensors import Array, Index, Mask, all_set, any_set
from passes.weights.streaming import Kept, Lazy

Axes = tuple[int, int]

#: the note that says whether all of the values are finite
FINITE = "finite"

_FEW = 16


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
        matrix: Callable[[], Mask] = partial(_matrix, values, axes)
        if isinstance(values, Kept) and values.size:  # the matrix takes less than they do, and is kept too
            whole = _reduced(values.values, axes)
            rows, columns, matrix = *_counts(whole), lambda: whole
            _note_finite(values, values.values)
        elif values.lead in axes:
            rows, columns = (np.zeros(values.shape[a], np.int64) for a in axes)
            for start, stop, block in values.placed():
                first, second = _place(values, axes, start, stop)
                in_rows, in_columns = _counts(_reduced(block, axes))
                _note_finite(values, block)
                rows[first] += in_rows
                columns[second] += in_columns
        else:
            whole = matrix()
            rows, columns = np.count_nonzero(whole, axis=1), np.count_nonzero(whole, axis=0)
        values.notes["zeros", axes] = Nonzero(rows, columns, matrix)
    found: Nonzero = values.notes["zeros", axes]
    return found


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
    flat = values.reshape(-1)
    if flat.dtype in (np.float32, np.float64):  # the sum of squares is finite then, and takes a quarter of the time
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.dot(flat, flat)):
                return True
    return bool(np.isfinite(flat).all())


def is_filled_with(values: Array | Lazy, value: object) -> bool:
    """Whether all elements are this one."""
    blocks = values.blocks() if isinstance(values, Lazy) else [values]
    return all(all_set(np.asarray(block == value)) for block in blocks)


def peaks(values: Array | Lazy, axis: int) -> Array:
    """The largest magnitude in each slice along an axis, not a number where one is not: the weight's type [size]."""
    if not isinstance(values, Lazy):
        return _peaks(values, axis)
    found = [_peaks(block, axis) for block in values.blocks()]
    return np.concatenate(found) if axis == values.lead else np.max(found, axis=0)


def _peaks(block: Array, axis: int) -> Array:
    others = tuple(a for a in range(block.ndim) if a != axis)
    return np.asarray(np.maximum(block.max(axis=others, initial=0), -block.min(axis=others, initial=0)))


class _Line:
    """The slices along one axis, as far as they have been seen."""

    def __init__(self, values: Lazy, axis: int) -> None:
        self.axis, self.lead = axis, values.lead
        self.mask = np.full(values.shape[axis], values.size > 0)
        self.value: Array = np.zeros(values.shape[axis], values.dtype)

    def look(self, block: Array, start: int) -> None:
        """Look at a block, whose first slice along `lead` is `start`."""
        if self.axis == self.lead:
            rows = np.moveaxis(block, self.axis, 0).reshape(block.shape[self.axis], -1)
            self.value[start : start + len(rows)] = rows[:, 0]
            self.mask[start : start + len(rows)] = _alike(rows)
            return
        others = tuple(a for a in range(block.ndim) if a != self.axis)
        if start == 0:
            self.value[:] = block[tuple(slice(None) if a == self.axis else 0 for a in range(block.ndim))]
        told = sorted({0, block.shape[self.lead] - 1})  # these show of most slices that they vary
        for probe in (np.take(block, told, self.lead), block):
            left = np.flatnonzero(self.mask)
            if not left.size:
                return
            picked = probe if left.size == self.mask.size else np.take(probe, left, self.axis)
            shape = [-1 if a == self.axis else 1 for a in range(block.ndim)]
            self.mask[left] = (picked == self.value[left].reshape(shape)).all(axis=others)


def _alike(rows: Array) -> Mask:
    """Whether each row [n, elements] holds one value throughout."""
    value = rows[:, 0]
    mask = np.asarray(rows[:, -1] == value)  # what is not a number is like nothing
    if rows.shape[1] <= 2:
        return mask
    mask &= rows[:, rows.shape[1] // 2] == value
    doubt = np.flatnonzero(mask)
    if doubt.size:
        mask[doubt] = (rows[doubt] == value[doubt, None]).all(axis=1)
    return mask


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
    """How many are set in each row and column of a matrix.

    Counting along both axes is slow. Mostly all are set that lie in a row and a column where any is; where few of these
    are not, those are found instead.
    """
    if found.all():  # soon seen, as in `_reduced`
        return np.full(len(found), found.shape[1]), np.full(found.shape[1], len(found))
    held = np.asarray(found.any(axis=1)), np.asarray(found.any(axis=0))
    sizes = [int(np.count_nonzero(some)) for some in held]
    zeros = sizes[0] * sizes[1] - int(np.count_nonzero(found))
    if not zeros:
        return held[0] * sizes[1], held[1] * sizes[0]
    if zeros * _FEW > found.size:
        return np.count_nonzero(found, axis=1), np.count_nonzero(found, axis=0)
    places = np.nonzero(~found & held[0][:, None] & held[1])
    missing = (np.bincount(place, minlength=size) for place, size in zip(places, found.shape, strict=True))
    rows, columns = (some * size - less for some, size, less in zip(held, sizes[::-1], missing, strict=True))
    return rows, columns


def _reduced(block: Array, axes: Axes) -> Mask:
    """Where anything is not zero, over two axes in the order in which they lie."""
    found = np.asarray(block != 0)
    rest = tuple(a for a in range(block.ndim) if a not in axes)
    if not rest:
        return found
    if found.all():  # soon seen, and the usual case
        return np.ones([block.shape[a] for a in axes], bool)
    if axes[0] > 0:
        return np.asarray(found.any(axis=rest))
    some = found.reshape(len(found), -1).any(axis=1)
    left = found[some]  # the usual case of weights that were masked
    reduced = np.zeros([block.shape[a] for a in axes], bool)
    reduced[some] = left.all() or left.any(axis=rest)
    return reduced


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
        return cls(np.count_nonzero(matrix, axis=1), np.count_nonzero(matrix, axis=0), lambda: matrix)

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
        certain = _met(rows, self._rows, self._columns)
        return np.asarray(self.matrix[rows].any(axis=0)) if certain is None else certain

    def rows(self, columns: Mask) -> Mask:
        """Rows that have a weight in any of these columns."""
        certain = _met(columns, self._columns, self._rows)
        return np.asarray(self.matrix[:, columns].any(axis=1)) if certain is None else certain

    @property
    def transposed(self) -> Nonzero:
        """The same with rows and columns exchanged."""
        return Nonzero(self._columns, self._rows, lambda: self.matrix.T)


def _met(asked: Mask, lines: Index, across: Index) -> Mask | None:
    """Of the lines across, those where any of the asked lines has a weight, by numbers of weights; None: in doubt."""
    held, some = lines > 0, across > 0
    most, chosen = int(np.count_nonzero(held)), int(np.count_nonzero(held & asked))
    if chosen == most:
        return np.asarray(some)
    sure = np.asarray(some & (most - across < chosen))  # fewer zeros than asked lines, beside those of lines all zeros
    return None if chosen and any_set(some & ~sure) else sure
