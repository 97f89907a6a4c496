"""Channels by element: arrays of channel numbers, and along which of their axes these differ."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from passes.graph.tensors import Index


def by_group(index: Index, groups: int) -> Index:
    """Channels [batch, heads, tokens, channels], the same for all tokens, as [batch, groups, heads, channels]."""
    return once(index[:, :, 0].reshape(index.shape[0], groups, -1, index.shape[3]))


def repeats(index: Index) -> int:
    """How often the channels at each place of the axis before the last are repeated, one after another."""
    if index.ndim < 2 or index.shape[-2] == 1:
        return 1
    rows = np.moveaxis(index, -2, 0)
    changes = np.flatnonzero((rows[1:] != rows[:-1]).reshape(len(rows) - 1, -1).any(axis=1)) + 1
    return int(np.gcd.reduce([*changes, len(rows)]))


def in_groups(index: Index, times: int) -> Index:
    """Channels [..., heads, channels] as [..., groups, heads of a group, channels]."""
    if index.shape[-2] == 1:
        return index[..., None, :]
    return once(index.reshape(*index.shape[:-2], -1, times, index.shape[-1]))


def places(index: Index, free: Collection[int], channels: int) -> Index:
    """A number for each channel, the same for those that lie at the same places, whatever these are along free axes.

    One for all that lie nowhere.
    """
    index = once(index)
    sizes = [1 if axis in free else size for axis, size in enumerate(index.shape)]
    at = np.broadcast_to(np.arange(int(np.prod(sizes))).reshape(sizes), index.shape).reshape(-1)
    flat = index.reshape(-1)
    counts = np.bincount(flat, minlength=channels)
    alike = counts == counts.max()
    order = np.lexsort((at, flat))
    rows = at[order][alike[flat[order]]].reshape(-1, int(counts.max()))
    found = np.arange(channels) + len(rows)
    found[alike] = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    found[counts == 0] = channels + len(rows)
    return found


def laid(index: Index, axes: Sequence[int | None]) -> Index:
    """The channels along these axes in this order, None for one of size 1; they are the same along all others."""
    index = once(index)
    kept = [a for a in axes if a is not None]
    moved = np.transpose(index, [*kept, *(a for a in range(index.ndim) if a not in kept)])
    shape = iter(moved.shape)
    return moved.reshape([1 if a is None else next(shape) for a in axes])


def fits(index: Index, shape: tuple[int, ...]) -> bool:
    """Whether the channels can be repeated to this shape."""
    return index.ndim == len(shape) and all(size in (1, whole) for size, whole in zip(index.shape, shape, strict=True))


def once(index: Index) -> Index:
    """With size 1 along axes that hold the same channels everywhere."""
    return index[tuple(slice(None) if _varies(index, axis) else slice(1) for axis in range(index.ndim))]


def varying(index: Index) -> tuple[int, ...]:
    """Axes along which the channels differ."""
    return tuple(a for a in range(index.ndim) if _varies(index, a))


def _varies(index: Index, axis: int) -> bool:
    if index.strides[axis] == 0 or index.shape[axis] == 1:
        return False
    slices = np.moveaxis(index, axis, 0)
    # the ends mostly tell
    return bool((slices[0] != slices[-1]).any() or (slices[0] != slices).any())
