"""Channels that do not depend on the input but differ from place to place: what padding makes of a constant.

A border leaves few distinct rows and columns, so a map is held as those, with an index vector for each spatial axis.
Operators on such maps are separable in the same way: what a window sees along one axis is a tuple of row numbers, and
there are again few distinct tuples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from passes.tensors import Array, Index, Mask


@dataclass(frozen=True)
class Pattern:
    """Known maps of channels (axis 1) of a tensor [batch, channels, *spatial] of static spatial sizes.

    `mask[c]` says which channels are known; `value[c, i, j, ...]` is then what channel c holds wherever
    `index[0] == i`, `index[1] == j` and so on; `index[a]` has the size of spatial axis a.
    """

    mask: Mask
    value: Array
    index: tuple[Index, ...]

    @property
    def uneven(self) -> Mask:
        """Known channels that are not one constant throughout: bool [channels]."""
        rows = self.value.reshape(len(self.mask), -1)
        return np.asarray(self.mask & (rows != rows[:, :1]).any(axis=1))

    def compact(self) -> Pattern:
        """The same maps without rows and columns that occur nowhere."""
        value, index = self.value, []
        for axis, places in enumerate(self.index):
            used, numbers = np.unique(places, return_inverse=True)
            value = np.take(value, used, axis=axis + 1)
            index.append(numbers.reshape(-1).astype(np.int64))
        return Pattern(self.mask, value, tuple(index))

    def expanded(self) -> Array:
        """All elements: [channels, *spatial]."""
        full = self.value
        for axis, index in enumerate(self.index):
            full = np.take(full, index, axis=axis + 1)
        return full


def uniform(mask: Mask, value: Array, sizes: Sequence[int]) -> Pattern:
    """One constant per channel (value [channels]) as maps of these spatial sizes."""
    shaped = value.reshape(-1, *[1] * len(sizes))
    return Pattern(mask, shaped, tuple(np.zeros(size, np.int64) for size in sizes))


def averaged(pattern: Pattern) -> Pattern:
    """The mean of each map, as maps of size 1."""
    value = pattern.value.astype(np.float64)
    for axis, index in enumerate(pattern.index):
        shares = np.bincount(index, minlength=value.shape[axis + 1]) / index.size
        value = np.expand_dims(np.tensordot(value, shares, axes=(axis + 1, 0)), axis + 1)
    flat = value.reshape(len(pattern.mask)).astype(pattern.value.dtype)
    return uniform(pattern.mask, flat, [1] * len(pattern.index))


def combined(mask: Mask, first: Pattern, second: Pattern) -> Pattern:
    """Channels of `mask` from the first pattern, the others from the second."""
    index, (a, b) = refined([first, second])
    chosen = mask.reshape(-1, *[1] * len(index))
    return Pattern(first.mask & mask | second.mask & ~mask, np.where(chosen, a, b), index)


def refined(patterns: Sequence[Pattern]) -> tuple[tuple[Index, ...], list[Array]]:
    """Index vectors fine enough for all patterns, and the values of each on them."""
    index = []
    values = [p.value for p in patterns]
    for axis in range(len(patterns[0].index)):
        together = np.stack([p.index[axis] for p in patterns])
        distinct, inverse = np.unique(together, axis=1, return_inverse=True)
        index.append(inverse.reshape(-1).astype(np.int64))
        values = [np.take(v, distinct[i], axis=axis + 1) for i, v in enumerate(values)]
    return tuple(index), values


@dataclass(frozen=True)
class Window:
    """How an operator slides over one spatial axis."""

    size: int
    stride: int
    dilation: int
    before: int
    out: int

    def tuples(self, index: Index) -> tuple[Index, Index]:
        """For each output position the number of its tuple, and for each tuple the rows seen: [tuples, size].

        A row of -1 is padding.
        """
        places = np.arange(self.out)[:, None] * self.stride + np.arange(self.size) * self.dilation - self.before
        inside = (places >= 0) & (places < index.size)
        rows = np.where(inside, index[np.clip(places, 0, index.size - 1)], -1)
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
        return inverse.reshape(-1).astype(np.int64), distinct


def windows(pattern: Pattern, over: Sequence[Window], padding: float) -> tuple[tuple[Index, ...], Array]:
    """What windows see of the maps: index vectors, and values [channels, tuples..., window sizes...]."""
    value = np.pad(pattern.value, [(0, 0)] + [(0, 1)] * len(over), constant_values=padding)  # -1 is the last row
    index = []
    for axis, window in enumerate(over):
        numbers, rows = window.tuples(pattern.index[axis])
        index.append(numbers)
        # the axis becomes two: tuples where it was, the window behind all others
        value = np.moveaxis(np.take(value, rows, axis=axis + 1), axis + 2, -1)
    return tuple(index), value


def spatial_windows(
    sizes: Sequence[int],
    outs: Sequence[int],
    kernel: Sequence[int],
    attrs: dict[str, object],
) -> list[Window]:
    """The windows of a Conv or pooling operator on static sizes, by its attributes."""
    rank = len(kernel)
    strides = _ints(attrs, "strides", 1, rank)
    dilations = _ints(attrs, "dilations", 1, rank)
    pads = _ints(attrs, "pads", 0, 2 * rank)
    auto = attrs.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    found = []
    for a in range(rank):
        before = pads[a]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max((outs[a] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 - sizes[a], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        elif auto == "VALID":
            before = 0
        found.append(Window(kernel[a], strides[a], dilations[a], before, outs[a]))
    return found


def _ints(attrs: dict[str, object], name: str, default: int, count: int) -> list[int]:
    value = attrs.get(name)
    return [int(v) for v in value] if isinstance(value, (list, tuple)) and len(value) else [default] * count
