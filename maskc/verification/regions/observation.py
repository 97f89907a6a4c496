"""Observation of a model's tensors in runs: their spread, prints of their slices, and slices that no data change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from maskc.verification.recheck import ALIKE, Array, Claims, Graph, Seen, in_runs, stream

# Elements of a slice that its print holds.
_PLACES = 48
# An axis with more slices is none of channels.
_MOST_SLICES = 8192


@dataclass
class Tensor:
    """A tensor on the first of the inputs: a print of each slice by axis, or all elements of what is no float.

    still: claims on slices that no data change.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    prints: dict[int, Array] = field(default_factory=dict)
    whole: Array | None = None
    still: Claims = field(default_factory=dict)


@dataclass
class Observed:
    """A model on some inputs: its tensors, and what the checker draws them by."""

    tensors: dict[str, Tensor]
    seen: dict[str, Seen]


def observe(graph: Graph, feeds: Sequence[Mapping[str, Array]], *, prints: bool = True) -> Observed:
    """Run a model. prints: whether they are kept, which take memory. Raises what ONNX Runtime does."""
    observed = Observed({}, {})

    def visit(name: str, arrays: list[Array]) -> None:
        observed.seen[name] = Seen.of(arrays)
        tensor = observed.tensors[name] = _tensor(arrays)
        if not prints:
            tensor.prints = {}

    stream(graph, feeds, visit)
    return observed


def _tensor(arrays: Sequence[Array]) -> Tensor:
    filled = [array for array in arrays if array.size] or arrays  # at some sizes there may be nothing
    first = filled[0]
    tensor = Tensor(first.shape, first.dtype)
    if first.dtype.kind != "f":
        tensor.whole = first
        return tensor
    with np.errstate(all="ignore"):
        tensor.prints = {
            axis: np.concatenate([print_of(a, axis) for a in arrays if a.shape == first.shape], axis=1)
            for axis, size in enumerate(first.shape)
            if first.size and size <= _MOST_SLICES
        }
        if first.size and len(arrays) > 1 and all(array.ndim == first.ndim for array in arrays):
            tensor.still = {
                axis: (slices, in_runs(arrays, axis, slices))
                for axis, size in enumerate(first.shape)
                if axis in tensor.prints
                and all(array.shape[axis] == size for array in arrays)
                and sum(array.size for array in arrays) > size > 1
                and (slices := _still(filled, axis, tensor.prints[axis])).size
            }
    return tensor


def _still(arrays: Sequence[Array], axis: int, prints: Array) -> Array:
    """Slices along the axis that are one number each on all inputs, or the same on those of one size."""
    twins = [array for array in arrays if array.shape == arrays[0].shape]
    near = np.split(prints, len(twins), axis=1)
    one, same = _alike(prints, prints[:, :1]), np.all([_alike(each, near[0]) for each in near], axis=0)
    slices = np.flatnonzero(same if len(twins) > 1 else one)
    if not slices.size:
        return slices
    first, *others = (_rows(array, axis, slices) for array in arrays)  # a print has not all elements
    slack = ALIKE * np.abs(first[:, 0])
    one = one[slices]
    for each in (first, *others) if one.any() else ():
        one &= (each.max(axis=1) - first[:, 0] <= slack) & (first[:, 0] - each.min(axis=1) <= slack)
    same = np.full(len(slices), len(twins) > 1)
    for each in (each for each in others if each.shape == first.shape and not one.all()):
        same &= _alike(each, first)
    return np.asarray(slices[one | same])


def _rows(array: Array, axis: int, slices: Array) -> Array:
    return np.moveaxis(array, axis, 0)[slices].reshape(len(slices), array.size // array.shape[axis])


def _alike(rows: Array, others: Array) -> Array:
    """Which rows are the same as others, but for rounding."""
    return np.asarray((np.abs(rows - others) <= ALIKE * np.abs(others)).all(axis=1))


def print_of(array: Array, axis: int) -> Array:
    """Elements of each slice along the axis, at the same places; shape [slices, places]."""
    if array.ndim == 1:
        return array[:, None].astype(np.float64)
    rows = np.moveaxis(array, axis, 0)
    index: tuple[Any, ...] = (slice(None), *_places(rows.shape[1:]))
    return np.asarray(rows[index].astype(np.float64))


@lru_cache(4096)
def _places(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return np.unravel_index(np.unique(np.linspace(0, math.prod(shape) - 1, _PLACES).astype(np.int64)), shape)
