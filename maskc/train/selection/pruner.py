"""The host's side of pruning: which mask entries are removed, and what the model costs then."""

from __future__ import annotations

import warnings
import weakref
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc.errors import InputError, MaskcError
from maskc.train.cost import ComputationalCost, compiled_flops, has_value
from maskc.train.mask_layer import MaskLayer
from maskc.train.selection.ranking import grouped, ranked, uncoupled
from maskc.train.selection.settings import Settings, goal


@dataclass(frozen=True)
class Pruned:
    """One entry that was set to zero: after which update, in which mask, and the FLOPs left after that update."""

    step: int
    mask: str
    channel: int
    flops: int


#: The entries pruned so far: step, index of the mask, channel, and FLOPs left.
Rows = list[tuple[int, int, int, int]]


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
        names: names of the prunable masks.
        failure: what the last decision failed at; None if it did not.

    Raises:
        InputError: if the target cannot be reached, or the model cannot be converted.
    """

    def __init__(self, model: Any, layers: Sequence[MaskLayer], settings: Settings, history: Rows) -> None:
        self._model = weakref.ref(model)
        self._cost = ComputationalCost(model)
        index = {id(layer): position for position, layer in enumerate(self._cost.layers)}
        self._where = [index[id(layer)] for layer in layers]
        self.settings = settings
        self._history = history
        self._exhausted = False
        self.failure: MaskcError | None = None
        self.names = [self._cost.names[position] for position in self._where]

        masks = self._cost.masks()
        coupled = self._cost.coupled if settings.tie == "auto" else uncoupled([len(mask) for mask in masks])
        prunable = [position in self._where for position in range(len(masks))]
        self._groups = grouped(self._cost.layers, coupled, prunable)
        target = settings.flops_target
        self._full = self._cost.count([np.ones_like(mask) for mask in masks])
        self.target = int(target * self._full if target <= 1 else target)
        self.flops, savings = self._cost.by_group(masks, self._groups)
        self._floor = self._fewest(masks, savings) if self.target or settings.schedule else 0
        if self.target and self._floor > self.target:
            raise InputError(
                f"flops_target cannot be reached: with {settings.min_channels} channel(s) left in every mask "
                f"the model still has {self._floor:,} FLOPs, and the target is {self.target:,}."
            )
        if self.target > self._full:
            warnings.warn(
                f"flops_target is {self.target:,}, and the model has {self._full:,} FLOPs without masks: nothing will "
                "be pruned.",
                stacklevel=2,
            )
        if self.flops <= self.target and all(map(has_value, model.weights)):
            self.flops = compiled_flops(model)

    def decide(self, step: int, *arrays: NDArray[np.floating]) -> list[NDArray[Any]]:
        """Prunes what is due: one group of entries, or as many as the schedule asks for.

        Args:
            step: the number of updates made.
            arrays: the prunable masks, then the importance of their entries, each of shape `(channels,)`.

        Returns:
            FLOPs (an int64 scalar) and the masks with more entries at zero; the same masks if none is left to prune.

        Raises:
            MaskcError: if a score is not a number.
        """
        given, scores = arrays[: len(self._where)], arrays[len(self._where) :]
        for name, score in zip(self.names, scores, strict=True):
            if not np.all(np.isfinite(score)):
                self.failure = MaskcError(f"The signal of the mask {name!r} is not finite: training has diverged.")
                raise self.failure
        masks = self._cost.masks()
        importance = [np.zeros_like(mask) for mask in masks]
        for position, mask, score in zip(self._where, given, scores, strict=True):
            masks[position] = np.array(mask, np.float32)
            importance[position] = np.asarray(score)
        flops = self._prune(int(step), masks, importance)
        pruned = [masks[position].astype(mask.dtype) for position, mask in zip(self._where, given, strict=True)]
        for index, (old, new) in enumerate(zip(given, pruned, strict=True)):
            self._history += [(int(step), index, channel, flops) for channel in np.flatnonzero(old != new).tolist()]
        return [np.asarray(flops, np.int64), *pruned]

    def recount(self) -> NDArray[np.int64]:
        """Returns the FLOPs of compiling the model as it is now, and corrects the last rows of the history."""
        flops = compiled_flops(self.model())
        rows = self._history
        last = rows[-1][0] if rows else None
        rows[:] = [(*row[:3], flops) if row[0] == last else row for row in rows]
        return np.asarray(flops, np.int64)

    def model(self) -> Any:
        """Returns the model.

        Raises:
            MaskcError: if it no longer exists.
        """
        if (model := self._model()) is None:
            raise MaskcError("The model that this optimizer prunes no longer exists.")
        return model

    def _prune(self, step: int, masks: list[NDArray[np.float32]], importance: list[NDArray[Any]]) -> int:
        """Zeroes entries of the masks in place and returns the FLOPs that are left."""
        flops, savings = self._cost.by_group(masks, self._groups)
        if self.settings.schedule is None:
            chosen = next(self._ranked(masks, importance, savings, flops), None)
            if chosen is None:
                self._warn_exhausted(flops)
                return flops
            masks[:] = self._without(masks, [chosen])
            return self._cost.count(masks)
        asked = max(self.target, self._floor)
        asked = goal(self.settings.schedule, step, self.settings.burn_in, self.settings.ramp, self._full, asked)
        while flops > asked:
            # What a group saves changes as others are removed, so each round closes no more than half of what is left.
            half, saved, order = (flops - asked) / 2, 0, []
            for chosen in self._ranked(masks, importance, savings, flops):
                order.append(chosen)
                saved += int(savings[chosen])
                if saved >= half:
                    break
            if not order:
                self._warn_exhausted(flops)
                break
            if flops - self._cost.count(self._without(masks, order)) > 1.1 * saved:
                # It even changes a lot, so that fewer do (after a normalisation, say, where the first saves little).
                numbers = range(1, len(order) + 1)
                enough = bisect_left(
                    numbers, True, key=lambda n: flops - self._cost.count(self._without(masks, order[:n])) >= half
                )
                order = order[: enough + 1]
            masks[:] = self._without(masks, order)
            flops, savings = self._cost.by_group(masks, self._groups)
        return flops

    def _ranked(self, masks: Any, importance: Any, savings: NDArray[np.int64], flops: int) -> Any:
        settings = self.settings
        if settings.flops_weight == "auto":
            # Else an entry that saves far more than is missing would look cheap, and quality be lost for nothing.
            savings = np.minimum(savings, max(flops - self.target, 1))
        return ranked(masks, importance, self._groups, savings, settings.flops_weight, settings.min_channels)

    def _without(self, masks: Sequence[NDArray[Any]], removed: Sequence[int]) -> list[NDArray[np.float32]]:
        return [mask * ~np.isin(group, removed) for mask, group in zip(masks, self._groups, strict=True)]

    def _fewest(self, masks: Sequence[NDArray[Any]], savings: NDArray[np.int64]) -> int:
        """FLOPs when every mask is down to its fewest channels.

        Which ones are left matters where masks meet, in a sum say: the groups that save most are removed first, or the
        last, which leaves the same channels in masks of equal sizes.
        """
        floors = []
        for first in (savings, np.arange(len(savings))):
            unimportant = [np.zeros_like(mask) for mask in masks]
            removed = ranked(masks, unimportant, self._groups, first, 1.0, self.settings.min_channels)
            floors.append(self._cost.count(self._without(masks, list(removed))))
        return min(floors)

    def _warn_exhausted(self, flops: int) -> None:
        if self._exhausted or not self.target:
            return
        self._exhausted = True
        warnings.warn(
            f"Every mask is down to {self.settings.min_channels} channel(s), and the model still has {flops:,} "
            f"FLOPs, above the target of {self.target:,}.",
            stacklevel=2,
        )
