"""The host's side of pruning: which entry goes, and what the model costs then."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc.errors import InputError, MaskcError
from maskc.train.convert import compiled_flops
from maskc.train.cost import ComputationalCost
from maskc.train.mask import MaskLayer
from maskc.train.prune import weakest
from maskc.train.settings import Settings


@dataclass(frozen=True)
class Pruned:
    """One entry that was set to zero: after which update, in which mask, and the FLOPs that were left."""

    step: int
    mask: str
    channel: int
    flops: int


@dataclass
class History:
    """The entries pruned so far, as rows of step, index of the mask, channel, and FLOPs left."""

    rows: list[tuple[int, int, int, int]] = field(default_factory=list)


class Pruner:
    """Takes the decisions of a pruning optimizer for one model, in numpy.

    Args:
        model: the model whose FLOPs count.
        layers: the layers whose masks may be pruned; others in the model stay as they are.
        settings: what to prune by, and how far.
        history: where to record what is pruned.

    Attributes:
        target: the FLOPs to reach.
        flops: FLOPs at the masks found in the model.

    Raises:
        InputError: if the target cannot be reached, or the model cannot be converted.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[MaskLayer],
        settings: Settings,
        history: History,
    ) -> None:
        self._model = weakref.ref(model)
        self._cost = ComputationalCost(model)
        index = {id(layer): position for position, layer in enumerate(self._cost.layers)}
        self._where = [index[id(layer)] for layer in layers]
        self._flops_weight = settings.flops_weight
        self._min_channels = settings.min_channels
        self._history = history
        self._exhausted = False
        self.names = [self._cost.names[position] for position in self._where]

        masks = self._cost.masks()
        target = settings.flops_target
        everything, _ = self._cost.at([np.ones_like(mask) for mask in masks])
        self.target = int(target * everything if target <= 1 else target)
        self.flops, savings = self._cost.at(masks)
        self._check_reachable(masks, savings)
        if self.flops <= self.target:
            self.flops = compiled_flops(model)

    def decide(self, step: int, *arrays: NDArray[np.floating]) -> list[NDArray[Any]]:
        """Prunes one entry.

        Args:
            step: the number of updates made, for the history.
            arrays: the prunable masks, then their signals, each of shape `(channels,)`.

        Returns:
            FLOPs (an int64 scalar) and the masks with one more entry at zero; the same masks if none is left
            to prune.

        Raises:
            MaskcError: if a signal is not a number.
        """
        masks, signals = list(arrays[: len(self._where)]), arrays[len(self._where) :]
        for name, signal in zip(self.names, signals, strict=True):
            if not np.all(np.isfinite(signal)):
                raise MaskcError(f"The signal of the mask {name!r} is not finite: training has diverged.")
        all_masks = self._cost.masks()
        for position, mask in zip(self._where, masks, strict=True):
            all_masks[position] = np.asarray(mask, np.float32)
        flops, all_savings = self._cost.at(all_masks)
        savings = [all_savings[position] for position in self._where]
        choice = weakest(masks, signals, savings, self._flops_weight, self._min_channels)
        if choice is None:
            self._warn_exhausted(flops)
            return [np.asarray(flops, np.int64), *masks]
        index, entry = choice
        masks[index] = masks[index].copy()
        masks[index][entry] = 0
        flops -= int(savings[index][entry])
        self._history.rows.append((int(step), index, entry, flops))
        return [np.asarray(flops, np.int64), *masks]

    def recount(self) -> NDArray[np.int64]:
        """Returns the FLOPs of compiling the model as it is now, and corrects the last row of the history."""
        flops = compiled_flops(self.model())
        if self._history.rows:
            self._history.rows[-1] = (*self._history.rows[-1][:3], flops)
        return np.asarray(flops, np.int64)

    def model(self) -> Any:
        """Returns the model.

        Raises:
            MaskcError: if it no longer exists.
        """
        model = self._model()
        if model is None:
            raise MaskcError("The model that this optimizer prunes no longer exists.")
        return model

    def _check_reachable(self, masks: Sequence[NDArray[Any]], savings: Sequence[NDArray[Any]]) -> None:
        """Compares the target with what is left when every mask is down to its fewest channels.

        Which ones are left matters where masks meet, in a sum say: the cheapest of each are tried, and the
        first of each, which are the same channels in all of them.
        """
        if not self.target:
            return
        floors = []
        for worth in (savings, [np.zeros_like(mask) for mask in masks]):
            least = [mask.copy() for mask in masks]
            for position in self._where:
                live = np.flatnonzero(masks[position])
                cheapest_first = live[np.argsort(worth[position][live], kind="stable")]
                least[position][cheapest_first[self._min_channels :]] = 0
            floors.append(self._cost.at(least)[0])
        floor = min(floors)
        if floor > self.target:
            raise InputError(
                f"flops_target cannot be reached: with {self._min_channels} channel(s) left in every mask "
                f"the model still has {floor:,} FLOPs, and the target is {self.target:,}."
            )

    def _warn_exhausted(self, flops: int) -> None:
        if self._exhausted or not self.target:
            return
        self._exhausted = True
        warnings.warn(
            f"Every mask is down to {self._min_channels} channel(s), and the model still has {flops:,} "
            f"FLOPs, above the target of {self.target:,}.",
            stacklevel=2,
        )
