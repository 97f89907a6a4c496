"""Observation of a model's tensors in runs: their spread, prints of their slices, and slices that look constant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from maskc.verification.recheck import Array, Graph, Seen, stream

# Elements of a slice that its print holds.
_PLACES = 48
# An axis with more slices is none of channels.
_MOST_SLICES = 8192
# What rounding may do to a constant, relative to it.
_ROUNDED = 1e-6


@dataclass
class Tensor:
    """A tensor on the first of the inputs: a print of each slice by axis, or all elements of what is no float.

    still: by axis, slices that hold one constant on all inputs, and these constants.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    prints: dict[int, Array] = field(default_factory=dict)
    whole: Array | None = None
    still: dict[int, tuple[Array, Array]] = field(default_factory=dict)


@dataclass
class Observed:
    """A model on some inputs: its tensors, and what the checker draws them by."""

    tensors: dict[str, Tensor]
    seen: dict[str, Seen]


def observe(graph: Graph, feeds: Sequence[Mapping[str, Array]]) -> Observed:
    """Run a model. Raises what ONNX Runtime does."""
    observed = Observed({}, {})

    def visit(name: str, arrays: list[Array]) -> None:
        observed.seen[name] = Seen.of(arrays)
        observed.tensors[name] = _tensor(arrays)

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
            for axis in tensor.prints:
                size = first.shape[axis]
                if any(array.shape[axis] != size for array in arrays) or sum(a.size for a in filled) <= size:
                    continue
                slices, constants = _still(filled, axis, tensor.prints[axis])
                if slices.size:
                    tensor.still[axis] = slices, constants
    return tensor


def _still(arrays: Sequence[Array], axis: int, first: Array) -> tuple[Array, Array]:
    """Slices along the axis that hold one constant each on all inputs, and these."""
    if arrays[0].shape[axis] == 1:
        return np.zeros(0, np.int64), np.zeros(0)
    flat = np.abs(first - first[:, :1]).max(axis=1) <= _ROUNDED * np.abs(first[:, 0])
    slices = np.flatnonzero(flat)
    if not slices.size:
        return slices, np.zeros(0)
    constants = np.moveaxis(arrays[0], axis, 0)[slices].reshape(len(slices), -1)[:, 0]
    for array in arrays:  # a print has not all elements
        rows = np.moveaxis(array, axis, 0)[slices].reshape(len(slices), array.size // array.shape[axis])
        same = np.abs(rows - constants[:, None]).max(axis=1) <= _ROUNDED * np.abs(constants)
        slices, constants = slices[same], constants[same]
    return slices, constants


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
