"""Which elements of a weight matrix are not zero, with quick answers for those that have only zero rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from passes.tensors import Mask


@dataclass(frozen=True)
class Nonzero:
    """`matrix[i, j]`: whether weight (i, j) is not zero, or any of the weights there if there are several."""

    matrix: Mask

    @cached_property
    def _any(self) -> tuple[Mask, Mask]:
        return np.asarray(self.matrix.any(axis=1)), np.asarray(self.matrix.any(axis=0))

    @cached_property
    def _simple(self) -> bool:
        """Whether all zeros lie in zero rows and zero columns, as they do unless single weights were pruned."""
        rows, columns = self._any
        return int(self.matrix.sum()) == int(rows.sum()) * int(columns.sum())

    def columns(self, rows: Mask) -> Mask:
        """Columns in which any of these rows has a weight."""
        if self._simple:
            live, all_columns = self._any
            return all_columns & (live & rows).any()
        return np.asarray(self.matrix[rows].any(axis=0))

    def rows(self, columns: Mask) -> Mask:
        """Rows that have a weight in any of these columns."""
        if self._simple:
            all_rows, live = self._any
            return all_rows & (live & columns).any()
        return np.asarray((self.matrix & columns).any(axis=1))
