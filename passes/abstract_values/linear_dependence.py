"""Linearly dependent slices: combinations of a few slices of the same axis, the same at every place.

A constant among the channels that a LayerNormalization normalises is no constant after it, but all such channels are
combinations of one or two quantities that the whole axis shares. So two of them at most are stored, and a consumer
of the others reads those with other weights.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from passes.graph.tensors import Array, Index, Mask
from passes.weights.streaming import Cut, Lazy, contracted, patched

#: how many slices may stand for all others
MOST = 2
#: larger factors between slices would enlarge rounding errors
LARGEST = 16.0


@dataclass(frozen=True)
class LinearDependence:
    """Where `mask[i]`: slice i = sum over j of `coef[i, j]` · slice `reps[j]`, plus `shift[i]`.

    mask: bool [n]; reps: int64 [r], not in the mask; coef: float64 [n, r]; shift: float64 [n].
    """

    mask: Mask
    reps: Index
    coef: Array
    shift: Array

    def required(self, need: Mask) -> Mask:
        """What must be stored so that these slices can be had: bool [n]."""
        if not (need & self.mask).any():
            return need
        required = need & ~self.mask
        required[self.reps] = True
        return required

    def gone(self, required: Mask | None) -> Mask:
        """The slices that representatives stand for where these are read (None: all): bool [n]."""
        if required is None or not required[self.reps].all():
            return np.zeros(self.mask.size, bool)
        return self.mask & ~required

    @property
    def copies(self) -> Index:
        """For each slice the representative that it equals, -1 where it is another combination: int64 [n]."""
        one = (self.coef == 1).sum(axis=1) == 1
        equal = self.mask & one & ((self.coef != 0).sum(axis=1) == 1) & (self.shift == 0)
        return np.where(equal, self.reps[(self.coef == 1).argmax(axis=1)], -1)

    def folded(self, weights: Array, dependent: Mask) -> Array:
        """Weights [n, ...] for a sum over the slices in which representatives stand for these dependent slices."""
        rows = weights[dependent].astype(np.float64)
        result = weights.copy()
        added = weights[self.reps].astype(np.float64) + np.tensordot(self.coef[dependent].T, rows, axes=1)
        result[self.reps] = added.astype(weights.dtype)
        return result

    def folded_along(self, weights: Lazy, axis: int, dependent: Mask) -> Lazy:
        """The same for weights that are not in memory, of a sum over slices along `axis`."""
        order = np.argsort(self.reps)
        before = np.moveaxis(np.asarray(Cut(weights, {axis: self.reps[order]})), axis, 0).astype(np.float64)
        added = contracted(weights, axis, np.where(dependent[:, None], self.coef, 0))[order]
        return patched(weights, axis, self.reps[order], (before + added).astype(weights.dtype))

    def without(self, others: Mask) -> LinearDependence | None:
        """The same for fewer slices; None if that says nothing any more."""
        mask = self.mask & ~others
        return LinearDependence(mask, self.reps, self.coef, self.shift) if mask.any() else None


@dataclass(frozen=True)
class Combination:
    """Slices as combinations of quantities (`atoms`) that do not vary along the axis.

    Where `inside[i]`: slice i = `rows[i]` · atoms + `shift[i]`. rows: float64 [n, atoms]; shift: float64 [n].
    """

    inside: Mask
    atoms: tuple[Hashable, ...]
    rows: Array
    shift: Array

    def shared(self, inside: Mask) -> bool:
        """Whether these slices are all one and the same quantity."""
        rows = self.rows[inside]
        return not self.shift[inside].any() and bool((rows == rows[:1]).all())


def constants(mask: Mask, value: Array) -> Combination:
    """Known slices (value [n])."""
    shift = np.where(mask, value, 0).astype(np.float64)
    return Combination(mask, (), np.zeros((mask.size, 0)), shift)


def broadcast(name: Hashable, size: int) -> Combination:
    """One quantity for all slices."""
    return Combination(np.ones(size, bool), (name,), np.ones((size, 1)), np.zeros(size))


def of_dependence(name: Hashable, dependence: LinearDependence) -> Combination:
    """Linearly dependent slices and their representatives."""
    rows, inside = np.where(dependence.mask[:, None], dependence.coef, 0), dependence.mask.copy()
    inside[dependence.reps] = True
    rows[dependence.reps] = np.eye(len(dependence.reps))
    atoms = tuple((name, int(rep)) for rep in dependence.reps)
    return Combination(inside, atoms, rows, np.where(dependence.mask, dependence.shift, 0))


def either(first: Combination, second: Combination) -> Combination:
    """What either says; they speak of different slices."""
    rows = np.concatenate([first.rows, second.rows], axis=1)
    return Combination(first.inside | second.inside, (*first.atoms, *second.atoms), rows, first.shift + second.shift)


def added(parts: Sequence[Combination], signs: Sequence[float]) -> Combination:
    """The sum, each part with its sign."""
    atoms = tuple(dict.fromkeys(a for p in parts for a in p.atoms))
    rows = np.zeros((parts[0].inside.size, len(atoms)))
    for part, sign in zip(parts, signs, strict=True):
        for k, atom in enumerate(part.atoms):
            rows[:, atoms.index(atom)] += sign * part.rows[:, k]
    shift = np.sum([s * p.shift for p, s in zip(parts, signs, strict=True)], axis=0)
    return Combination(_inside(parts), atoms, rows, shift)


def multiplied(first: Combination, second: Combination) -> Combination | None:
    """The product with constants or with one shared quantity; None where it is not linear."""
    inside = _inside((first, second))
    if first.atoms and (not second.atoms or not second.shared(inside)):
        first, second = second, first
    if not first.atoms:
        return Combination(inside, second.atoms, first.shift[:, None] * second.rows, first.shift * second.shift)
    return _times(first, "*", second, inside)


def divided(first: Combination, second: Combination) -> Combination | None:
    """The quotient by constants or by one shared quantity; None where it is not linear."""
    inside = _inside((first, second))
    if not second.atoms:
        inside &= second.shift != 0
        inverse = 1 / np.where(inside, second.shift, 1)
        return Combination(inside, first.atoms, first.rows * inverse[:, None], first.shift * inverse)
    return _times(first, "/", second, inside)


def selected(condition: Combination, chosen: Combination, other: Combination) -> Combination | None:
    """One of two by a shared condition; None where that is not the same throughout."""
    inside = _inside((condition, chosen, other))
    first, second = _times(chosen, "then", condition, inside), _times(other, "else", condition, inside)
    return None if first is None or second is None else added((first, second), (1.0, 1.0))


def _times(found: Combination, op: str, shared: Combination, inside: Mask) -> Combination | None:
    """All of it times (or over) one quantity, whose multiple a shift becomes; None if it is not the same throughout."""
    if not shared.shared(inside):
        return None
    factor = op, shared.atoms, tuple(shared.rows[inside][0]) if inside.any() else ()
    atoms = (*((atom, factor) for atom in found.atoms), factor)
    rows = np.concatenate([found.rows, found.shift[:, None]], axis=1)
    return Combination(inside, atoms, rows, np.zeros(rows.shape[0]))


def grouped(parts: Sequence[Combination]) -> Combination:
    """What any function makes of these operands, slice by slice: equal operands give equal results."""
    inside = _inside(parts)
    columns = np.concatenate([np.concatenate([p.rows, p.shift[:, None]], axis=1) for p in parts], axis=1)
    _, kind = np.unique(columns[inside], axis=0, return_inverse=True)
    kinds = int(kind.max(initial=-1)) + 1
    if kinds > MOST:
        return Combination(np.zeros(inside.size, bool), (), np.zeros((inside.size, 0)), np.zeros(inside.size))
    rows = np.zeros((inside.size, kinds))
    rows[np.flatnonzero(inside), kind.reshape(-1)] = 1
    return Combination(inside, tuple(range(kinds)), rows, np.zeros(inside.size))


def _inside(parts: Sequence[Combination]) -> Mask:
    return np.asarray(np.logical_and.reduce([p.inside for p in parts]))


def dependence(found: Combination, preferred: Index | None = None) -> LinearDependence | None:
    """All but a few of these slices as combinations of those few; None if they are too many or too unlike.

    Representatives are chosen by pivoting, so that factors stay near one: of nearly as good ones the `preferred`, or
    those with the smallest shift, of which the rounding in half precision would be that of the others as well.
    """
    places = np.flatnonzero(found.inside)
    rows = found.rows[places]
    left = rows.copy()
    pivots: list[int] = []
    scale = float(np.abs(rows).max(initial=0))
    while (size := np.abs(left).sum(axis=1)).max(initial=0) > 1e-9 * scale:
        if len(pivots) == MOST:
            return None
        good = np.flatnonzero(4 * size >= size.max())
        if preferred is not None and np.isin(places[good], preferred).any():
            good = good[np.isin(places[good], preferred)]
        pivot = int(good[(np.abs(found.shift[places[good]]) / size[good]).argmin()])
        direction = left[pivot] / np.linalg.norm(left[pivot])
        left = left - np.outer(left @ direction, direction)
        pivots.append(pivot)
    if len(places) <= len(pivots) or not pivots:
        return None
    coef = rows @ np.linalg.pinv(rows[pivots])
    if np.abs(coef).max() > LARGEST:
        return None
    n = found.inside.size
    mask, full, shift = found.inside.copy(), np.zeros((n, len(pivots))), np.zeros(n)
    full[places] = coef
    shift[places] = found.shift[places] - coef @ found.shift[places[pivots]]
    mask[places[pivots]] = False
    return LinearDependence(mask, places[pivots].astype(np.int64), full, shift)
