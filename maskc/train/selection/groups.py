"""Which mask entries are pruned together: coupled ones, and those of masks that are shared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskc.errors import InputError
from maskc.train.mask_layer import MaskLayer

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


def uncoupled(sizes: Sequence[int]) -> Groups:
    """Returns groups of single entries for masks of these sizes."""
    return np.split(np.arange(sum(sizes), dtype=np.int64), np.cumsum(sizes)[:-1])
