"""Channels that do not depend on the input but differ from place to place, as padding makes of a constant.

A border leaves few distinct rows and columns, so a map is stored as those, and for each axis which of them lies where.
Operators on such maps are separable in the same way: what a window covers along one axis is a tuple of row numbers, and
there are again few distinct tuples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from passes.abstract_values.linear_dependence import Combination, LinearDependence, dependence
from passes.abstract_values.row_index import Rows, together, windowed
from passes.abstract_values.windows import Window
from passes.graph.tensors import Array, Dim, Mask

# Distinct places of one map: with more, maps cost more than they save. A window of 7 leaves 16 rows and 16 columns.
MOST_PLACES = 1024

# Elements of all windows over all maps: with more, what they cover is not looked at.
_MOST_COVERED = 2**25

# Adding a map reads and writes the whole output once more: as long as 32 multiply-adds for each element of it. Where
# sizes are known at run time only, the map is expanded each time, in 0.15 ns an element at 112 x 112 and 1 ns at
# 14 x 14, where 32 multiply-adds take 0.8 ns; but that pays as early: MobileNetV2 of symbolic sizes, half masked, took
# 8.9 ms with adapters, 7.2 ms with 160 here, 6.1 ms with 96, and 4.9 ms with 64 or 32; unmasked 7.2 ms.
FLOPS_PER_ADDED_ELEMENT = 64.0


@dataclass(frozen=True)
class Absorbed:
    """Constant slices that a contraction no longer reads, as their contribution to its output is added as one map.

    `weights`: elements of initializers that go with each slice where it is made; `outputs` and `taps`: how many outputs
    read it, and with how many weights each.
    """

    weights: int
    outputs: int
    taps: int = 1

    def pays(self, places: int, uneven: int, gone: int) -> bool:
        """Whether the map, of so many distinct places, is cheaper to add than the uneven slices are to read.

        Reading them costs at least that much again where they are made. `gone` slices need not be read in all, and the
        map must not be larger than the weights that go with them.
        """
        smaller = self.outputs * places <= self.outputs * self.taps * gone + self.weights * uneven
        return smaller and 2 * 2.0 * self.taps * uneven >= FLOPS_PER_ADDED_ELEMENT


@dataclass(eq=False)  # made often, and a frozen one takes four times as long to make
class ConstantMap:
    """Constant maps: slices along one axis, the channels, that do not depend on the input and need not be uniform.

    `mask[c]` says which channels are known; `value[c, i, j, ...]` is then channel c at row i of the first of the
    tensor's other axes, row j of the second and so on. `index` says for each of them which row lies where; None: all of
    it is row 0, whatever its size.
    """

    mask: Mask
    value: Array
    index: tuple[Rows | None, ...]

    @property
    def uneven(self) -> Mask:
        """Known channels that are not one constant throughout: bool [channels]."""
        rows = self.value.reshape(len(self.mask), -1)
        return np.asarray(self.mask & (rows != rows[:, :1]).any(axis=1))

    @cached_property
    def dependence(self) -> LinearDependence | None:
        """All but a few of the maps as combinations of those few; None if they are too many or too unlike."""
        rows = self.cleared().reshape(len(self.mask), -1).astype(np.float64)
        return dependence(Combination(self.mask, tuple(range(rows.shape[1])), rows, np.zeros(len(rows))))

    def compact(self) -> ConstantMap:
        """The same maps without rows that occur nowhere, and in their order where each occurs once."""
        value, index = self.value, list(self.index)
        for axis, rows in enumerate(self.index):
            if rows is None:
                continue
            if rows.count != value.shape[axis + 1] or not rows.lie_somewhere:
                used = np.bincount(rows.places, minlength=value.shape[axis + 1]) > 0
                value = np.compress(used, value, axis=axis + 1)
                rows = Rows((np.cumsum(used) - 1)[rows.places], rows.course)
            if rows.course is None and rows.places.size == value.shape[axis + 1] and not rows.is_each(rows.places.size):
                value, rows = np.take(value, rows.places, axis=axis + 1), Rows(np.arange(rows.places.size))
            index[axis] = rows if value.shape[axis + 1] > 1 else None
        return ConstantMap(self.mask, value, tuple(index))

    def is_static(self, axes: Collection[int] | None = None) -> bool:
        """Whether the sizes of these of the other axes, or of all, are known beforehand, as far as the maps vary."""
        chosen = (rows for a, rows in enumerate(self.index) if axes is None or a in axes)
        return all(rows is None or rows.course is None for rows in chosen)

    def expanded(self) -> Array:
        """All elements, for maps of static sizes: [channels, *others], of size 1 where they do not vary."""
        full = self.value
        for axis, rows in enumerate(self.index, 1):
            assert rows is None or rows.course is None
            full = full if rows is None else np.take(full, rows.places, axis=axis)
        return full

    def cut(self, axis: int, kept: Mapping[int, Mask | None]) -> ConstantMap:
        """The same maps where the tensor, whose channels lie along `axis`, has only these slices of other axes."""
        index = list(self.index)
        for other, mask in kept.items():
            place = other - (other > axis)
            rows = index[place]
            if rows is not None and mask is not None:
                index[place] = Rows(rows.places[mask])
        return ConstantMap(self.mask, self.value, tuple(index))

    def cleared(self) -> Array:
        """The values, 0 in channels that are not known."""
        return np.where(self.mask.reshape(-1, *[1] * len(self.index)), self.value, 0)


def uniform(mask: Mask, value: Array, others: int) -> ConstantMap:
    """One constant per channel (value [channels]) as maps over this many other axes of any size."""
    return ConstantMap(mask, value.reshape(-1, *[1] * others), (None,) * others)


def whole(values: Array, axis: int) -> ConstantMap:
    """The slices of an array along an axis."""
    value = np.moveaxis(values, axis, 0)
    index = [Rows(np.arange(size)) if size > 1 else None for size in value.shape[1:]]
    return ConstantMap(np.ones(len(value), bool), value, tuple(index))


def averaged(constant_map: ConstantMap, axes: Collection[int]) -> ConstantMap | None:
    """The mean over these of the other axes, which become uniform; None if it depends on a size at run time."""
    if not constant_map.is_static(axes):
        return None
    value = constant_map.value.astype(np.float64)
    for axis in axes:
        rows = constant_map.index[axis]
        if rows is not None:
            shares = np.bincount(rows.places, minlength=value.shape[axis + 1]) / rows.places.size
            value = np.expand_dims(np.tensordot(value, shares, axes=(axis + 1, 0)), axis + 1)
    return _without(constant_map, axes, value.astype(constant_map.value.dtype))


def extreme(
    constant_map: ConstantMap, axes: Collection[int], largest: Callable[..., Array] = np.max
) -> ConstantMap | None:
    """The largest element (`np.min`: the smallest) over these of the other axes, which become uniform.

    None if it depends on a size at run time.
    """
    if not constant_map.is_static(axes):
        return None
    constant_map = constant_map.compact()
    value = largest(constant_map.value, axis=tuple(a + 1 for a in axes), keepdims=True)
    return _without(constant_map, axes, value)


def _without(constant_map: ConstantMap, axes: Collection[int], value: Array) -> ConstantMap:
    index = tuple(None if a in axes else rows for a, rows in enumerate(constant_map.index))
    return ConstantMap(constant_map.mask, value, index)


def combined(mask: Mask, first: ConstantMap, second: ConstantMap) -> ConstantMap | None:
    """Channels of `mask` from the first pattern, the others from the second; None if they are of different sizes."""
    both = refined([first, second])
    if both is None:
        return None
    index, (a, b) = both
    chosen = mask.reshape(-1, *[1] * len(index))
    return ConstantMap(first.mask & mask | second.mask & ~mask, np.where(chosen, a, b), index)


def refined(patterns: Sequence[ConstantMap]) -> tuple[tuple[Rows | None, ...], list[Array]] | None:
    """Rows fine enough for all patterns, and the values of each on them (1 where one is the same along all rows).

    None where the patterns are along axes of different sizes.
    """
    index = []
    values = [p.value for p in patterns]
    for axis in range(len(patterns[0].index)):
        given = [p.index[axis] for p in patterns]
        uneven = [(rows, v) for rows, v in zip(given, values, strict=True) if rows is not None]
        if all(rows is uneven[0][0] and v.shape[axis + 1] == rows.count for rows, v in uneven):
            index.append(uneven[0][0] if uneven else None)  # fine enough as they are
            continue
        joint = together(given)
        if joint is None:
            return None
        index.append(joint[0])
        values = [
            v if rows is None else np.take(v, joint[1][:, i], axis=axis + 1)
            for i, (v, rows) in enumerate(zip(values, given, strict=True))
        ]
    return tuple(index), values


@dataclass(frozen=True)
class Sliding:
    """Windows over all axes after the first other one, the batch, which have these sizes."""

    windows: Sequence[Window]
    sizes: Sequence[Dim]

    @property
    def inner(self) -> tuple[int, ...]:
        """The axes of what `over` returns that run over the elements of a window."""
        return tuple(range(-len(self.windows), 0))

    def places(self, constant_map: ConstantMap) -> int | None:
        """How many distinct places there are after the windows; None where `over` gives nothing."""
        one = ConstantMap(constant_map.mask[:1], constant_map.value[:1], constant_map.index)
        found = self.over(one, 0.0)
        return None if found is None else math.prod(found[1].shape[: 2 + len(self.windows)])

    def over(self, constant_map: ConstantMap, padding: float) -> tuple[tuple[Rows | None, ...], Array] | None:
        """What the windows cover of the maps: the rows of the output, and values [channels, 1, tuples..., windows...].

        None where a size is not known, a window reaches too far, the batch is not uniform, or it is too much.
        """
        if constant_map.index[0] is not None or len(constant_map.index) != len(self.windows) + 1:
            return None
        value = constant_map.value
        if value.size * math.prod(window.size for window in self.windows) > _MOST_COVERED:
            return None
        index: list[Rows | None] = [None]
        for axis, (window, size) in enumerate(zip(self.windows, self.sizes, strict=True), 1):
            found = windowed(window, constant_map.index[axis], size)
            if found is None:
                return None
            index.append(found[0])
            # the axis becomes two: tuples where it was, the window after all others; row -1 is the padding
            if np.array_equal(found[1], np.arange(value.shape[axis + 1])[:, None]):
                value = value[..., None]
            else:
                row = (*value.shape[: axis + 1], 1, *value.shape[axis + 2 :])
                padded = np.concatenate([value, np.full(row, padding, value.dtype)], axis=axis + 1)
                value = np.moveaxis(np.take(padded, found[1], axis=axis + 1), axis + 2, -1)
        return tuple(index), value
