"""Removing channels so that their number stays a multiple of one that kernels like."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from maskc.train.selection.ranking import Groups, Masks, importance_of, live, ranked
from maskc.train.selection.settings import FlopsWeight


def kinds_of(groups: Groups) -> NDArray[np.int64]:
    """Returns the kind of each group, of shape `(groups,)`: those of one kind have as many entries in each mask.

    Args:
        groups: the group of each mask entry, an array of shape `(channels,)` for each mask; -1 for entries that stay.
    """
    count = 1 + max((int(group.max(initial=-1)) for group in groups), default=-1)
    members = np.stack([np.bincount(group[group >= 0], minlength=count) for group in groups])
    return np.unique(members, axis=1, return_inverse=True)[1].reshape(-1)


def ranked_in_multiples(
    masks: Masks,
    scores: Masks,
    groups: Groups,
    kinds: NDArray[np.int64],
    savings: NDArray[np.float64],
    flops_weight: FlopsWeight,
    min_channels: int,
    units: NDArray[np.int64],
    enough: float = np.inf,
) -> Iterator[list[int]]:
    """Yields which live groups to remove together, those with the lowest importance per FLOP first.

    Of each kind that is first so many groups that a multiple of its unit is left, and then a unit at a time, the least
    important first.

    Args:
        masks, scores, groups, savings, flops_weight, min_channels: as for `ranked`.
        kinds: of the groups, as `kinds_of` returns them.
        units: what the number of live groups of each kind is to be a multiple of, of shape `(kinds,)`.
        enough: FLOPs beyond which it does not matter how much is saved.
    """
    # With which others each group is removed, in numbers that rise with the importance within a kind; -1 if gone.
    importance, alive = importance_of(masks, scores, groups, len(kinds)), live(masks, groups, len(kinds))
    left = np.bincount(kinds[alive], minlength=len(units))
    order = np.lexsort((-savings, importance, kinds))
    order = order[alive[order]]
    position = np.arange(len(order)) - (np.cumsum(left) - left)[kinds[order]]
    place = (position + -left[kinds[order]] % units[kinds[order]]) // units[kinds[order]]
    together = np.full(len(kinds), -1)
    together[order] = np.unique(np.stack([kinds[order], place]), axis=1, return_inverse=True)[1].reshape(-1)
    number = 1 + int(together.max(initial=-1))
    going = np.flatnonzero(together >= 0)
    kind = np.zeros(number, np.int64)
    kind[together[going]] = kinds[going]
    saved = np.minimum(np.bincount(together[going], savings[going], number), enough)
    merged = [np.where(group >= 0, together[group], -1) for group in groups]
    following = {int(k): iter(np.flatnonzero(kind == k).tolist()) for k in np.unique(kind)}
    for chosen in ranked(masks, scores, merged, saved, flops_weight, min_channels):
        # In their order, as any other would leave numbers between two multiples.
        yield np.flatnonzero(together == next(following[int(kind[chosen])])).tolist()
