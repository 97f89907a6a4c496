"""Observation of a model's tensors in runs: their spread, prints of slices, and slices that follow from others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from maskc.verification.recheck import ALIKE, Array, Claim, Claims, Graph, Pairs, Seen, Slices, fitted, rows, stream

# Elements of a slice that its print holds.
_PLACES = 48
# An axis with more slices is none of channels.
_MOST_SLICES = 8192
# By fewer places many slices are multiples of another, and so many pairs of slices take much memory.
_ENOUGH, _MOST_PAIRS = 8, 1 << 24


@dataclass
class Tensor:
    """A tensor on the first of the inputs: a print of each slice by axis, or all elements of what is no float."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    prints: Mapping[int, Array] = field(default_factory=dict)
    whole: Array | None = None


@dataclass
class Observed:
    """A model on some inputs: its tensors, what the checker draws them by, and claims on those that nodes make."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    claims: dict[str, Claims] = field(default_factory=dict)


def observe(
    graph: Graph,
    feeds: Sequence[Mapping[str, Array]],
    held: Mapping[str, Slices] | None = None,
    *,
    removed: bool = False,
    prints: bool = True,
) -> Observed:
    """Run a model. Raises what ONNX Runtime does.

    held: slices of tensors of which others may be multiples, None where nothing is claimed. removed: whether claims are
    made along the axes of these alone, of which some slices are not held. prints: whether they are kept, which take
    memory.
    """
    observed = Observed()

    def visit(name: str, arrays: list[Array]) -> None:
        filled = [array for array in arrays if array.size] or arrays  # at some sizes there may be nothing
        first = filled[0]
        floats = first.dtype.kind == "f"
        observed.seen[name] = Seen.of(arrays)
        observed.tensors[name] = Tensor(first.shape, first.dtype, whole=None if floats else first)
        slices = (held or {}).get(name, {})
        claimed = held is not None and name in graph.maker and bool(slices or not removed)
        claimed &= floats or name in graph.levels or name in graph.sums
        if not ((prints and floats) or claimed):
            return
        with np.errstate(all="ignore"):
            each = _prints(filled)
            along = {axis: each[axis] for axis in slices if axis in each} if removed else each
            if claimed and (claims := _claims(arrays, filled, along, slices if floats else {})):
                observed.claims[name] = claims
        if prints and floats:
            observed.tensors[name].prints = each

    stream(graph, feeds, visit)
    return observed


def _prints(arrays: Sequence[Array]) -> dict[int, Array]:
    """Prints of slices by axis, of all arrays of the first one's shape."""
    shape = arrays[0].shape
    axes = [axis for axis, size in enumerate(shape) if arrays[0].size and size <= _MOST_SLICES]
    return {a: np.concatenate([print_of(each, a) for each in arrays if each.shape == shape], axis=1) for a in axes}


def _claims(arrays: Sequence[Array], filled: Sequence[Array], prints: Mapping[int, Array], held: Slices) -> Claims:
    """What is claimed of a tensor by axis, where slices have more than one element in all runs together."""
    shape = filled[0].shape
    if len(arrays) < 2 or any(array.ndim != len(shape) for array in arrays):
        return {}
    size = sum(array.size for array in arrays)
    axes = [a for a in prints if size > shape[a] > 1 and all(array.shape[a] == shape[a] for array in arrays)]
    found = {axis: _claim(arrays, filled, axis, prints[axis], held.get(axis)) for axis in axes}
    return {axis: claim for axis, claim in found.items() if claim is not None}


def _claim(
    arrays: Sequence[Array], filled: Sequence[Array], axis: int, prints: Array, held: Array | None
) -> Claim | None:
    """What is claimed of slices along an axis. held: those of which others may be multiples, None if there are none."""
    still = _still(filled, axis, prints)
    pairs = [] if held is None else _pairs(prints, np.setdiff1d(held, still), np.union1d(held, still))
    return Claim.made(arrays, axis, still, pairs) if still.size or pairs else None


def _pairs(prints: Array, held: Array, known: Array) -> Pairs:
    """Slices that are a multiple of one that is held and a constant, as far as prints show, and that one.

    known: the held ones and those of which nothing is asked.
    """
    rest = np.setdiff1d(np.arange(len(prints)), known)
    if prints.shape[1] < _ENOUGH or not 0 < held.size * rest.size <= _MOST_PAIRS:
        return []
    moves = prints - prints.mean(axis=1, keepdims=True)
    directions = np.nan_to_num(moves / np.sqrt((moves**2).sum(axis=1, keepdims=True)))
    alike = directions[rest] @ directions[held].T
    nearest = held[np.abs(alike).argmax(axis=1)]
    one, other = prints[rest], prints[nearest]
    factors, shifts = fitted(one, other)
    off = np.abs(one - factors[:, None] * other - shifts[:, None])
    near = (off <= ALIKE * np.abs(one).max(axis=1, keepdims=True)).all(axis=1)
    return list(zip(rest[near].tolist(), nearest[near].tolist(), strict=True))


def _still(arrays: Sequence[Array], axis: int, prints: Array) -> Array:
    """Slices along the axis that are one number each on all inputs, or the same on those of one size."""
    twins = [array for array in arrays if array.shape == arrays[0].shape]
    near = np.split(prints, len(twins), axis=1)
    one, same = _alike(prints, prints[:, :1]), np.all([_alike(each, near[0]) for each in near], axis=0)
    slices = np.flatnonzero(same if len(twins) > 1 else one)
    if not slices.size:
        return slices
    first, *others = (rows([array], axis, slices) for array in arrays)  # a print has not all elements
    slack = ALIKE * np.abs(first[:, 0])
    one = one[slices]
    for each in (first, *others) if one.any() else ():
        one &= (each.max(axis=1) - first[:, 0] <= slack) & (first[:, 0] - each.min(axis=1) <= slack)
    same = np.full(len(slices), len(twins) > 1)
    for each in (each for each in others if each.shape == first.shape and not one.all()):
        same &= _alike(each, first)
    return np.asarray(slices[one | same])


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
