"""Observation of a model's tensors in runs: their spread, prints of their slices, and slices that no data change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from maskc.verification.recheck import ALIKE, Array, Claim, Graph, Seen, stream

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
    still: Sequence[Claim] = ()


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
        if all(array.ndim == first.ndim for array in arrays):
            claims = _still(filled, tensor.prints)
            tensor.still = [claim for claim in claims if claim.uniform or len(filled) == len(arrays)]
    return tensor


def _still(arrays: Sequence[Array], prints: Mapping[int, Array]) -> list[Claim]:
    """Claims on slices that no data change.

    They are the same in runs of the same sizes, and one number in all runs if they are one in the first.
    """
    shape, found = arrays[0].shape, list[Claim]()
    twins = [k for k, array in enumerate(arrays) if array.shape == shape][1:]
    for axis, rows in prints.items():
        size = shape[axis]
        if size == 1 or any(a.shape[axis] != size for a in arrays) or sum(a.size for a in arrays) <= size:
            continue
        first, *near = np.split(rows, 1 + len(twins), axis=1)  # a print has not all elements, but is quick
        slices = np.flatnonzero(np.all([_alike(first, each) for each in near or [first[:, :1]]], axis=0))
        claims = Claim.of(arrays, axis, slices) if slices.size else []
        for claim in claims:
            found.append(claim if claim.uniform else claim.left(_same(claim, twins)))
        if len(claims) == 1 and len(found[-1].slices) == size and not found[-1].uniform:
            return found[-1:]  # that is all that there is
    return [claim for claim in found if claim.slices.size]


def _same(claim: Claim, twins: Sequence[int]) -> Array:
    """Which slices are the same in the first run and in these, but not one number there."""
    first, *others = (np.moveaxis(claim.runs[k], claim.axis, 0).reshape(len(claim.slices), -1) for k in (0, *twins))
    same = ~_alike(first, first[:, :1]) & bool(twins)
    for other in others:
        same &= _alike(other, first)
    return same


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
