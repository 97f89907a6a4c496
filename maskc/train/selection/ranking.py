"""The order in which mask entries are removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc.train.selection.settings import FlopsWeight

Masks = Sequence[NDArray[np.floating]]
Groups = Sequence[NDArray[np.integer]]


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
    importance = np.zeros(count)
    for own, group, alive in zip(scores, groups, live, strict=True):
        np.add.at(importance, group[alive], own[alive].astype(np.float64))
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
