"""Which elements of a weight matrix are not zero, mostly answered from how many there are in each row and column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from passes.graph.tensors import Index, Mask


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
        live = self._rows > 0
        asked = int(np.count_nonzero(live & rows))
        zeros = int(np.count_nonzero(live)) - self._columns  # in each column, beside those of rows that are all zeros
        sure = (self._columns > 0) & (zeros < asked)
        if not asked or not ((self._columns > 0) & ~sure).any():
            return np.asarray(sure)
        return np.asarray(self.matrix[rows].any(axis=0))

    def rows(self, columns: Mask) -> Mask:
        """Rows that have a weight in any of these columns."""
        return self.transposed.columns(columns)

    @property
    def transposed(self) -> Nonzero:
        """The same with rows and columns exchanged."""
        return Nonzero(self._columns, self._rows, lambda: self.matrix.T)
