"""Which mask entry goes next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskc.train.settings import FlopsWeight

Masks = Sequence[NDArray[np.floating]]


def weakest(
    masks: Masks,
    signals: Masks,
    savings: Sequence[NDArray[np.integer]],
    flops_weight: FlopsWeight,
    min_channels: int,
) -> tuple[int, int] | None:
    """Finds the live entry that is worth least.

    Theis et al. 2018 (arXiv 1801.05787): what an entry is worth is what the loss would rise by without it,
    which half its Fisher signal estimates, set against the FLOPs that go with it.

    Args:
        masks: one array of shape `(channels,)` for each mask; zero where the entry is pruned.
        signals: the Fisher signals, of the same shapes.
        savings: FLOPs that zeroing each entry would save, of the same shapes.
        flops_weight: "auto" for the smallest signal per FLOP saved, or a number w for the smallest
            `signal - w · FLOPs`.
        min_channels: masks with no more live entries than this are left alone.

    Returns:
        `(mask, entry)` as indices, or None if every mask is down to `min_channels`. Of several that are
        worth the same, the one that saves most, and of those the first.
    """
    live = [np.flatnonzero(mask) for mask in masks]
    live = [entries if len(entries) > min_channels else entries[:0] for entries in live]
    owner = np.repeat(np.arange(len(live)), [len(entries) for entries in live])
    if owner.size == 0:
        return None
    entry = np.concatenate(live)
    signal = np.concatenate([s[e] for s, e in zip(signals, live, strict=True)]).astype(np.float64)
    flops = np.concatenate([s[e] for s, e in zip(savings, live, strict=True)]).astype(np.float64)
    if flops_weight == "auto":
        # An entry that saves nothing yet, because others hold its channel, comes last: the smallest signal
        # first.
        score = np.divide(signal, flops, out=np.full_like(signal, np.inf), where=flops > 0)
    else:
        score = signal - flops_weight * flops
    first = np.lexsort((-flops, signal, score))[0]
    return int(owner[first]), int(entry[first])
