"""Which elements of a weight matrix are not zero, with quick answers for those that have only zero rows and columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from passes.tensors import Mask


class Nonzero:
    """`matrix[i, j]`: whether weight (i, j) is not zero, or any of the weights there if there are several.

    The matrix itself is asked for only where zeros lie elsewhere than in zero rows and zero columns, as they do where
    single weights were pruned.
    """

    def __init__(self, rows: Mask, columns: Mask, count: int, matrix: Callable[[], Mask]) -> None:
        self._rows, self._columns, self._matrix = rows, columns, matrix
        self._simple = count == int(rows.sum()) * int(columns.sum())

    @classmethod
    def of(cls, matrix: Mask) -> Nonzero:
        """From the matrix, which is kept."""
        return cls(np.asarray(matrix.any(axis=1)), np.asarray(matrix.any(axis=0)), int(matrix.sum()), lambda: matrix)

    @property
    def matrix(self) -> Mask:
        """bool [rows, columns]."""
        return self._matrix()

    def columns(self, rows: Mask) -> Mask:
        """Columns in which any of these rows has a weight."""
        if self._simple:
            return np.asarray(self._columns & (self._rows & rows).any())
        return np.asarray(self.matrix[rows].any(axis=0))

    def rows(self, columns: Mask) -> Mask:
        """Rows that have a weight in any of these columns."""
        if self._simple:
            return np.asarray(self._rows & (self._columns & columns).any())
        return np.asarray((self.matrix & columns).any(axis=1))

    @property
    def transposed(self) -> Nonzero:
        """The same with rows and columns exchanged."""
        count = int(self._rows.sum()) * int(self._columns.sum()) if self._simple else -1
        return Nonzero(self._columns, self._rows, count, lambda: self.matrix.T)
