"""Boundaries between regions of two models, claims on constants, and random values in which these hold."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskc.verification.regions.graph import Array

Slices = Mapping[int, Array]  # by axis, those that are held
Claims = Mapping[int, tuple[Array, Array]]  # by axis, slices and the constant of each

SPARSE = 8  # of sparse values one of so many is not zero, so that an error in one weight stands out of its sum
WIDE = 100.0  # spread of values in every third turn of a region that took boundaries in, so that nothing there is dead

_POOL = 1 << 20
_NORMAL = np.tile(np.random.default_rng(7).standard_normal(_POOL, np.float32), 2)
_ABSENT = np.tile(np.random.default_rng(8).integers(0, SPARSE, _POOL, np.int8) != 0, 2)


@dataclass
class Seen:
    """A tensor of the source in runs: its shape in each, its spread, and its values if it has integers."""

    shapes: list[tuple[int, ...]]
    dtype: np.dtype[Any]
    mean: float = 0.0
    spread: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    values: list[Array] | None = None

    @classmethod
    def of(cls, arrays: list[Array]) -> Seen:
        """What runs show of a tensor."""
        first, shapes = arrays[0], [array.shape for array in arrays]
        if first.dtype.kind != "f" or (first.ndim < 2 and first.size <= 8):
            return cls(shapes, first.dtype, values=arrays)
        few = first.reshape(-1)[:: max(1, first.size >> 16)].astype(np.float64)
        few = few[np.isfinite(few)]
        if not few.size:
            return cls(shapes, first.dtype)
        low = min(float(np.fmin.reduce(array, axis=None, initial=np.inf)) for array in arrays)
        high = max(float(np.fmax.reduce(array, axis=None, initial=-np.inf)) for array in arrays)
        mean, spread = float(few.mean()), float(few.std())
        return cls(shapes, first.dtype, mean, spread or abs(mean) or 1.0, low, high)


@dataclass
class Boundary:
    """A tensor of the compiled model that holds slices of one of the source: all along axes that are not named.

    reads: the tensors of the compiled model at which its region ends, None for all boundaries.
    """

    source: str
    slices: Slices = field(default_factory=dict)
    reads: frozenset[str] | None = None

    def cut(self, array: Array) -> Array:
        """These slices of the source's tensor."""
        for axis, index in self.slices.items():
            array = np.take(array, index, axis)
        return array


@dataclass(frozen=True)
class Region:
    """What lies between a boundary and those that it reads, on both sides: indices of nodes, and the tensors read."""

    target: str
    boundary: Boundary
    compiled: tuple[int, ...]
    compiled_reads: frozenset[str]
    source: tuple[int, ...]
    source_reads: frozenset[str]


@np.errstate(over="ignore")  # a border may be the lowest number there is
def fresh(name: str, seen: Seen, claims: Claims, turn: int, seed: int) -> Array:
    """Random values of a tensor of the source, in which its claims hold: as seen, or sparse and wider, in turn.

    Below 0 they are as wide as in no run.
    """
    if seen.values is not None:
        return seen.values[turn % len(seen.values)]
    rng = np.random.default_rng([zlib.crc32(name.encode()), turn % 65_536, seed])
    shape = seen.shapes[turn % len(seen.shapes)]
    values = drawn(_NORMAL, rng, math.prod(shape))
    values *= seen.spread * (WIDE if turn < 0 else 3 if turn % 2 else 1)
    if turn % 2:
        values[drawn(_ABSENT, rng, values.size)] = 0
    else:
        values += seen.mean
    if seen.low >= 0:
        np.maximum(np.abs(values), seen.low, out=values)
    elif seen.high <= 0:
        np.minimum(-np.abs(values), seen.high, out=values)
    if seen.dtype == np.float16:
        np.clip(values, -6e4, 6e4, out=values)
    values = values.reshape(shape).astype(seen.dtype)
    for axis, (slices, constants) in claims.items():
        values[(slice(None),) * axis + (slices,)] = constants.reshape(-1, *[1] * (len(shape) - axis - 1))
    return values


def signs(size: int, rng: np.random.Generator) -> Array:
    """So many numbers that are 1 or -1."""
    return np.sign(drawn(_NORMAL, rng, size))


def drawn(pool: Array, rng: np.random.Generator, size: int) -> Array:
    """So many elements of a pool from a random place on."""
    start = int(rng.integers(_POOL))
    return np.resize(pool[start:], size) if size > _POOL else pool[start : start + size].copy()
