"""Optimal brain surgeon on whole channels: what each costs a layer that reads it, when the others make up for it.

With rows x of a layer's input, of second moment H = E[x xᵀ], and weights W, taking away the rows of W in block b and
changing all others for the best raises the square of the layer's error by tr(W_bᵀ (H⁻¹)_bb⁻¹ W_b); the best weights are
W - H⁻¹_{:b} (H⁻¹)_bb⁻¹ W_b, and H⁻¹ loses its block as Gaussian elimination takes it away. Hassibi and Stork 1993
(Optimal Brain Surgeon) have this for single weights; Kwon et al. 2022 (arXiv 2204.09656), Frantar and Alistarh 2022
(arXiv 2208.11580) and Kurtic et al. 2023 (ZipLM, arXiv 2302.04089) for structures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskc.pruning.layers.contractions import Floats, Index
from maskc.pruning.layers.network import Reader

Doubles = NDArray[np.float64]

RIDGE = 1e-3  # of the mean of the moments' diagonal
WIDE = 1600  # rows of a matrix; larger layers are seen channel by channel
_PROJECTIONS = 48  # of the outputs of these


@dataclass
class Moments:
    """Second moments of a layer's rows, and of a constant one after them, as they come in.

    A wide layer is a sum of its channels, each weighted with 1: its rows are what the channels contribute to the
    outputs. Where a channel has several taps, to random projections of these, which keep their products in the mean.
    """

    reader: Reader
    matrix: Doubles
    total: Doubles
    count: int = 0
    wide: bool = False
    projection: Floats | None = None

    @classmethod
    def of(cls, reader: Reader, matrix: Doubles, seed: int) -> Moments:
        """Without any rows yet; `matrix` [groups, rows, outputs] holds the layer's weights."""
        groups, rows, outputs = matrix.shape
        if rows <= WIDE:
            return cls(reader, matrix, np.zeros((groups, rows + 1, rows + 1)))
        width, signs = reader.contraction.width, None
        if width < rows:
            rng = np.random.default_rng(seed)
            signs = rng.choice([-1.0, 1.0], (outputs, min(outputs, _PROJECTIONS))).astype(np.float32)
        return cls(reader, matrix, np.zeros((groups, width, width)), wide=True, projection=signs)

    def add(self, rows: Floats) -> None:
        """Rows as `Contraction.rows` gives them; those that are no numbers do not count."""
        rows = rows[:, np.isfinite(rows).all(axis=(0, 2))]
        self.count += rows.shape[1]
        if self.projection is None:
            ones = np.ones((*rows.shape[:2], 0 if self.wide else 1), rows.dtype)
            with_one = np.concatenate([rows, ones], axis=2)
            self.total += with_one.transpose(0, 2, 1) @ with_one
            return
        contraction = self.reader.contraction
        for group, matrix in enumerate(self.matrix):
            projected = (matrix @ self.projection).astype(np.float32)
            by_channel = projected.reshape(contraction.width, contraction.taps, -1)
            for part in np.array_split(rows[group], max(1, rows.shape[1] // 64)):
                split = part.reshape(len(part), contraction.width, contraction.taps).transpose(1, 0, 2)
                contributed = (split @ by_channel).reshape(contraction.width, -1)
                self.total[group] += contributed @ contributed.T / self.projection.shape[1]

    def mean(self) -> Doubles:
        """The second moments: [groups, rows and one, rows and one], or of the channels of a wide layer."""
        found = self.total / max(self.count, 1)
        # channels of one tap contribute to an output what is read of them, times a weight
        alone = self.wide and self.projection is None
        return found * (self.matrix @ self.matrix.transpose(0, 2, 1)) if alone else found


class Layer:
    """A layer from which channels go, one group after the other.

    inverse: float64 [groups of the layer, rows, rows], the inverse moments of what is left. weights: [groups, rows,
    outputs]. energy: the mean square of the outputs around their mean, summed over outputs.
    """

    def __init__(self, moments: Moments) -> None:
        self.reader = moments.reader
        contraction = self.reader.contraction
        self._wide = moments.wide
        self._matrix = moments.matrix
        second = moments.mean()
        groups, rows, _ = second.shape
        ridge = RIDGE * np.trace(second, axis1=1, axis2=2) / rows + 1e-12
        self.inverse: Doubles = np.linalg.inv(second + ridge[:, None, None] * np.eye(rows))
        if self._wide:
            self.weights = np.ones((groups, rows, 1))
            centred = second
        else:
            self.weights = np.concatenate([moments.matrix, np.zeros((groups, 1, moments.matrix.shape[2]))], axis=1)
            mean = second[:, -1]
            centred = second - mean[:, :, None] * mean[:, None, :]
        self.energy = max(float(np.einsum("gio,gij,gjo->", self.weights, centred, self.weights, optimize=True)), 1e-12)
        # of each group: where its rows are, by the group of the layer
        self._rows: dict[int, list[tuple[int, Index]]] = {}
        of_row = self.reader.group_of
        if self._wide:  # what goes with a part of a channel is not seen
            by_tap = of_row.reshape(*of_row.shape[:2], contraction.width, contraction.taps)
            of_row = np.where((by_tap == by_tap[..., :1]).all(axis=-1), by_tap[..., 0], -1)
        for group in range(groups):
            labels = of_row[:, group]
            for label in np.unique(labels[labels >= 0]).tolist():
                self._rows.setdefault(label, []).append((group, np.flatnonzero((labels == label).any(axis=0))))

    def errors(self, count: int) -> Doubles:
        """What the loss of each group adds to the square of the error, of the energy: float64 [count], 0 elsewhere."""
        found = np.zeros(count)
        for labels, groups, rows in self._alike():
            blocks = self.inverse[groups[:, None, None], rows[:, :, None], rows[:, None, :]]
            weights = self.weights[groups[:, None], rows]
            added = np.einsum("nio,nio->n", weights, np.linalg.solve(blocks, weights))
            np.add.at(found, labels, np.maximum(added, 0))
        return found / self.energy

    def without(self, gone: Sequence[int]) -> None:
        """Take these groups away and let the other weights make up for them."""
        parts: dict[int, list[Index]] = {}
        for label in gone:
            for group, rows in self._rows.pop(label, ()):
                parts.setdefault(group, []).append(rows)
        for group, found in parts.items():
            rows = np.unique(np.concatenate(found))
            inverse, weights = self.inverse[group], self.weights[group]
            gain = np.linalg.solve(inverse[np.ix_(rows, rows)], inverse[rows])
            weights -= gain.T @ weights[rows]
            inverse -= inverse[:, rows] @ gain
            weights[rows] = 0
            inverse[rows], inverse[:, rows] = 0, 0
            inverse[rows, rows] = 1

    @property
    def labels(self) -> list[int]:
        """The groups that are left in the layer."""
        return list(self._rows)

    def stored(self) -> Floats:
        """The weights as the model stores them; what the constant one makes up for is left out."""
        if self._wide:
            factors = np.repeat(self.weights, self.reader.contraction.taps, axis=1)
            return self.reader.contraction.stored(self._matrix * factors)
        return self.reader.contraction.stored(self.weights[:, :-1])

    def copy(self) -> Layer:
        """The same, from which others can go."""
        found = object.__new__(Layer)
        vars(found).update(vars(self), inverse=self.inverse.copy(), weights=self.weights.copy(), _rows=dict(self._rows))
        return found

    def _alike(self) -> Iterator[tuple[Index, Index, Index]]:
        """Groups that take equally many rows: their numbers, the layer's groups, and rows, int64 [n, rows]."""
        by_size: dict[int, list[tuple[int, int, Index]]] = {}
        for label, parts in self._rows.items():
            for group, rows in parts:
                by_size.setdefault(len(rows), []).append((label, group, rows))
        for found in by_size.values():
            labels, groups, rows = (np.array(column) for column in zip(*found, strict=True))
            yield labels, groups, rows
