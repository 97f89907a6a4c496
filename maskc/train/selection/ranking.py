"""Groups of mask entries in the order of their removal, one by one or so many that a multiple of channels is left.

Together go coupled entries, and those of masks that are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc.errors import InputError
from maskc.train.mask_layer import MaskLayer
from maskc.train.selection.settings import FlopsWeight

Masks = Sequence[NDArray[np.floating]]
Groups = list[NDArray[np.int64]]


def grouped(layers: Sequence[MaskLayer], coupled: Sequence[NDArray[np.int64]], prunable: Sequence[bool]) -> Groups:
    """Returns the group of each mask entry: for each layer an array of shape `(channels,)`, numbered from 0.

    Args:
        layers: all mask layers of a model. Those with the same name of `groups` share their groups, entry by entry.
        coupled: groups of entries that are removed together anyway, in numbers of any kind, as arrays of the same
            shapes.
        prunable: whether a layer's mask may be pruned; entries of others have the number -1.

    Raises:
        InputError: if masks that are to be one have different numbers of channels.
    """
    groups = [np.array(group, np.int64) for group in coupled]
    named: dict[str, int] = {}
    for index, layer in enumerate(layers):
        if layer.groups is None:
            continue
        first = named.setdefault(layer.groups, index)
        if len(groups[first]) != len(groups[index]):
            raise InputError(
                f"The mask layers {layers[first].name!r} and {layer.name!r} have groups={layer.groups!r} but "
                f"{len(groups[first])} and {len(groups[index])} channels: masks that are shared need equally many."
            )
        for channel in range(len(groups[first])):
            keep, drop = groups[first][channel], groups[index][channel]
            groups = groups if keep == drop else [np.where(group == drop, keep, group) for group in groups]
    marked = [np.where(free, group, -1) for group, free in zip(groups, prunable, strict=True)]
    numbers, renumbered = np.unique(np.concatenate(marked), return_inverse=True)
    renumbered = renumbered.reshape(-1) - int(numbers[0] == -1)
    return np.split(renumbered.astype(np.int64), np.cumsum([len(group) for group in groups])[:-1])


def count_of(groups: Groups) -> int:
    """Returns how many groups there are."""
    return 1 + max((int(group.max(initial=-1)) for group in groups), default=-1)


def uncoupled(sizes: Sequence[int]) -> Groups:
    """Returns groups of single entries for masks of these sizes."""
    return np.split(np.arange(sum(sizes), dtype=np.int64), np.cumsum(sizes)[:-1])


def live(masks: Masks, groups: Groups, count: int) -> NDArray[np.bool_]:
    """Returns which groups have an entry that is not zero, of shape `(count,)`."""
    alive = np.zeros(count, bool)
    for mask, group in zip(masks, groups, strict=True):
        alive[group[(mask != 0) & (group >= 0)]] = True
    return alive


def importance_of(masks: Masks, scores: Masks, groups: Groups, count: int) -> NDArray[np.float64]:
    """Returns the sum of the scores of each group's live entries, of shape `(count,)`."""
    importance = np.zeros(count)
    for mask, own, group in zip(masks, scores, groups, strict=True):
        alive = (mask != 0) & (group >= 0)
        np.add.at(importance, group[alive], own[alive].astype(np.float64))
    return importance


def ranked(
    masks: Masks,
    scores: Masks,
    groups: Groups,
    savings: NDArray[Any],
    flops_weight: FlopsWeight,
    min_channels: int,
) -> Iterator[int]:
    """Yields the live groups of entries that may be removed, the least important first.

    Theis et al. 2018 (arXiv 1801.05787): a group is as important as the loss would rise without it, which the sum of
    its entries' scores estimates, set against the FLOPs that it saves.

    Args:
        masks: one array of shape `(channels,)` for each mask; zero where the entry is pruned.
        scores: the importance of the entries, of the same shapes.
        groups: the group of each entry, of the same shapes; -1 for entries that stay.
        savings: FLOPs that zeroing each group would save, of shape `(groups,)`.
        flops_weight: "auto" for the smallest score per FLOP saved, or a number w for the smallest
            `score - w · FLOPs`.
        min_channels: a group is left alone that would leave a mask fewer live entries than this, when all that were
            yielded before it are removed.

    Of several groups that are equally important, the one that saves most comes first, and of those the first.
    """
    count = len(savings)
    live = [(mask != 0) & (group >= 0) for mask, group in zip(masks, groups, strict=True)]
    members = [np.bincount(g[alive], minlength=count) for g, alive in zip(groups, live, strict=True)]
    spare = [int(np.count_nonzero(mask)) - min_channels for mask in masks]
    importance = importance_of(masks, scores, groups, count)
    if flops_weight == "auto":
        # A group that saves nothing yet, because others keep its channel alive, comes last: the least important first.
        rank = np.divide(importance, savings, out=np.full(count, np.inf), where=savings > 0)
    else:
        rank = importance - flops_weight * savings
    for chosen in np.lexsort((-savings, importance, rank)).tolist():
        taken = [int(member[chosen]) for member in members]
        if any(taken) and all(n <= left or not n for n, left in zip(taken, spare, strict=True)):
            spare = [left - n for n, left in zip(taken, spare, strict=True)]
            yield chosen


def kinds_of(groups: Groups) -> NDArray[np.int64]:
    """Returns the kind of each group, of shape `(groups,)`: those of one kind have as many entries in each mask.

    Args:
        groups: the group of each mask entry, an array of shape `(channels,)` for each mask; -1 for entries that stay.
    """
    count = count_of(groups)
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
