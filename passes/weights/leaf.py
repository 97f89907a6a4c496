"""Leaves of weights: initializers whose slices they read along each axis, in any order and repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import gcd, prod

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.construct import constant
from passes.graph.tensors import Array, Index, inverse, values_of
from passes.weights.streaming import Picked, moved


@dataclass(frozen=True, eq=False)
class Leaf:
    """An initializer, of which a weight has an element for each of its own.

    `stored`, in the shape `grid`, has as many axes as the weight. Along each, the weight's slices are those of it that
    `index` says; None: all, in order.
    """

    stored: gs.Constant
    grid: tuple[int, ...]
    index: tuple[Index | None, ...]

    @staticmethod
    def of(stored: gs.Constant) -> Leaf:
        """All of an initializer."""
        shape = tuple(int(d) for d in stored.shape)
        return Leaf(stored, shape, (None,) * len(shape))

    @staticmethod
    def of_one(stored: gs.Constant, shape: tuple[int, ...]) -> Leaf:
        """One element for all of a weight of this shape."""
        return Leaf(stored, (1,) * len(shape), tuple(np.zeros(d, np.int64) for d in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return tuple(g if i is None else i.size for g, i in zip(self.grid, self.index, strict=True))

    @property
    def values(self) -> Array:
        """The elements, in a shape that broadcasts to that of the weight."""
        values = values_of(self.stored).reshape(self.grid)
        for axis, index in enumerate(self.index):
            values = values if index is None or self.grid[axis] == 1 else np.take(values, index, axis)
        return values

    @property
    def is_whole(self) -> bool:
        """Whether there is one element for each of the weight's."""
        return all(index is None for index in self.index)

    @property
    def in_blocks(self) -> bool:
        """Whether its elements vary along more than one axis."""
        return sum(size > 1 for size in self.grid) > 1

    def run(self, axis: int) -> int:
        """How many slices along the axis have the same elements at least, from the first on: 0 where all have."""
        index = self.index[axis]
        if self.shape[axis] == 1 or (index is not None and self.grid[axis] == 1):
            return 0
        return 1 if index is None else gcd(*(int(c) for c in np.flatnonzero(np.diff(index)) + 1))

    def moved(self, name: str, move: Callable[[Array], Array], shape: tuple[int, ...]) -> Leaf:
        """As the weight, whose elements are moved or dropped, and which has this shape afterwards, needs it."""
        if prod(self.stored.shape) == 1:
            return Leaf.of_one(self.stored, shape)
        if self.is_whole:
            return Leaf.of(constant(f"{name}_quantised", moved(self._in_grid(), move)))
        return self._picked(move.picked) if isinstance(move, Picked) else self.spread(move)

    def _in_grid(self) -> gs.Constant:
        """The initializer in the shape of the grid."""
        same = tuple(self.stored.shape) == self.grid
        return self.stored if same else constant(self.stored.name, values_of(self.stored).reshape(self.grid))

    def _picked(self, picked: Mapping[int, Index]) -> Leaf:
        index, left = list(self.index), dict(picked)
        for axis, kept in picked.items():
            along = index[axis]
            if along is not None:
                first, index[axis] = _distinct(along[kept])
                left[axis] = along[kept][first]
        left = {a: k for a, k in left.items() if k.size != self.grid[a] or (k != np.arange(k.size)).any()}
        stored = constant(self.stored.name, moved(self._in_grid(), Picked(left))) if left else self.stored
        grid = tuple(left[a].size if a in left else g for a, g in enumerate(self.grid))
        return Leaf(stored, grid, tuple(index))

    def spread(self, move: Callable[[Array], Array]) -> Leaf:
        """As `moved`, with slices stored once that are then the same."""
        return _reduced(self.stored.name, move(self._places(0)), values_of(self.stored).reshape(-1))

    @staticmethod
    def joined(leaves: Sequence[Leaf], axis: int) -> Leaf:
        """Leaves of weights that are concatenated."""
        name, values = leaves[0].stored.name, [values_of(leaf.stored) for leaf in leaves]
        if all(leaf.is_whole for leaf in leaves):
            parts = [v.reshape(leaf.grid) for v, leaf in zip(values, leaves, strict=True)]
            return Leaf.of(constant(f"{name}_joined", np.concatenate(parts, axis)))
        starts = accumulate([v.size for v in values], initial=0)
        places = [leaf._places(start) for leaf, start in zip(leaves, starts, strict=False)]
        return _reduced(name, np.concatenate(places, axis), np.concatenate([v.reshape(-1) for v in values]))

    def _places(self, start: int) -> Array:
        """For each of the weight's elements which one of the initializer's it is, from this number on [shape]."""
        numbers = replace(self, stored=constant("", np.arange(prod(self.grid)) + start))
        return np.broadcast_to(numbers.values, self.shape)


def _reduced(name: str, places: Array, values: Array) -> Leaf:
    """A leaf of these elements of the values, with equal slices stored once."""
    index: list[Index | None] = []
    for axis in range(places.ndim):
        slices = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
        same = (slices == slices[:1]).all()  # of most axes, and found faster
        first, along = _distinct(np.zeros(len(slices)) if same else slices)
        places = np.take(places, first, axis)
        index.append(along)
    return Leaf(constant(name, values[places]), places.shape, tuple(index))


def _distinct(rows: Array) -> tuple[Index, Index | None]:
    """Where each row comes for the first time, and which of these each row is; None: they are all distinct."""
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], None if first.size == len(rows) else inverse(order)[which.reshape(-1)]
