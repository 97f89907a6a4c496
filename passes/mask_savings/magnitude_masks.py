"""Masks for a model that has none, by the magnitude of its weights: which filters to remove to reach some FLOPs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from passes.graph.tensors import Index, Mask
from passes.mask_savings.compiled_cost import compiled_cost
from passes.mask_savings.coupled_entries import coupled
from passes.mask_savings.gated import PLACE, gated
from passes.mask_savings.prunable_filters import Filters, filters
from passes.model.inputs import bind
from passes.sizes.sizes_to_count_at import Sizes


@dataclass(frozen=True)
class Level:
    """Masks by `tensor@axis`, 0/1 uint8 [channels], and the FLOPs that the model has when it is compiled with them.

    The FLOPs are those of the exact live sets: a compilation that keeps channels for the sake of speed has more.
    """

    masks: dict[str, NDArray[np.uint8]]
    flops: int


def levels(model: onnx.ModelProto, flops: Sequence[float], at: Sizes | None = None) -> list[Level | None]:
    """For each number of FLOPs the masks that remove the fewest filters, the smallest first, to have no more.

    Coupled filters (of a residual sum, a depthwise convolution, a head) are one group. Its size is the mean over its
    filters of `n² / m`, where n is the L2 norm of a filter's weights and m the mean of n² over its layer, so that
    layers of different scale can be compared. Groups are removed in the order of their size; the one with the largest
    filter of a layer stays, so that no layer is emptied, and so do all that an output shows.

    Returns None where not even all others going is enough, or where there are no filters. Magnitude of weights is the
    usual baseline (Li et al. 2017, arXiv 1608.08710); it knows nothing of data.

    at: the sizes to count FLOPs at, as for `passes.count`.

    Raises GraphError when the graph is not valid, and SizeError for sizes that do not fit.
    """
    found = filters(model)
    if not found:
        return [None for _ in flops]
    search = _Search(model, found, at)
    return [search.level(most) for most in flops]


class _Search:
    """The order in which groups are removed, and the FLOPs without the first of them, as far as they were asked for."""

    def __init__(self, model: onnx.ModelProto, found: list[Filters], at: Sizes | None) -> None:
        self._filters = {f"{PLACE}{i}": each for i, each in enumerate(found)}
        self._gated = gated(model, self._filters)
        self._groups = coupled(self._gated, {name: len(each.norm) for name, each in self._filters.items()})
        self._order = _order(found, [*self._groups.values()])
        self._flops: dict[int, int] = {}
        self._at_sizes = at

    def level(self, most: float) -> Level | None:
        """The first level with no more FLOPs."""
        if self._at(len(self._order)) > most:
            return None
        low = bisect_left(range(len(self._order)), True, key=lambda removed: self._at(removed) <= most)
        masks = self._masks(low)
        named = {f"{each.tensor}@{each.axis}": masks[name].astype(np.uint8) for name, each in self._filters.items()}
        return Level({key: mask for key, mask in named.items() if not mask.all()}, self._at(low))

    def _at(self, removed: int) -> int:
        if removed not in self._flops:
            self._flops[removed] = compiled_cost(bind(self._gated, self._masks(removed)), at=self._at_sizes).flops
        return self._flops[removed]

    def _masks(self, removed: int) -> dict[str, Mask]:
        return {name: ~np.isin(group, self._order[:removed]) for name, group in self._groups.items()}


def _order(found: Sequence[Filters], group: Sequence[Index]) -> Index:
    """The groups that can be removed, the smallest first."""
    size = 1 + max(int(g.max()) for g in group)
    total, count, stays = np.zeros(size), np.zeros(size), np.zeros(size, bool)
    for layer, index in zip(found, group, strict=True):
        square = np.square(layer.norm)
        mean = square.mean()
        np.add.at(total, index, square / mean if mean > 0 else square)
        np.add.at(count, index, 1)
        stays[index if layer.fixed else index[square.argmax()]] = True
    free = np.flatnonzero((count > 0) & ~stays)
    return free[np.argsort(total[free] / count[free], kind="stable")]
