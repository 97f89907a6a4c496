"""What groups of mask entries save: at once from a cost model, and counted where that may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskc import progress
from maskc.train.cost import ComputationalCost, Values
from maskc.train.selection.ranking import Groups
from passes.mask_savings.cost_model import CostModel

_CLOSE = 0.01  # a saving that is off by less is right
_AGAIN = 0.5  # of its FLOPs left, a model is made anew, since what is rare at first may not be later


@dataclass
class _Check:
    """How far the model is off for groups of one kind, and after how many uses that is counted again."""

    error: float
    interval: int = 1
    uses: int = 0


class Savings:
    """FLOPs at some masks, and what each group of entries would save.

    They follow from one analysis (`passes.cost_model`), in milliseconds. For the groups of which it says that they may
    be off, one of each kind is counted by compiling the graph without it, and again when such a group is about to be
    chosen: after one choice, after two more, after four more, as long as the count is what was expected.

    Where groups divide what is coupled, no saving follows from another, and all are counted each time.

    Args:
        cost: of the model.
        groups: for each mask the group of its entries, of shape `(channels,)`; -1 for entries that stay.
        masks: to begin with.
    """

    _model: CostModel
    _counted: tuple[int, NDArray[np.int64]]  # in place of the model, where coupled entries are divided

    def __init__(self, cost: ComputationalCost, groups: Groups, masks: Values) -> None:
        self._cost = cost
        self._groups = groups
        self._divided = not whole(cost.coupled, groups)
        self._more = 0  # FLOPs of the model with its present weights beyond those that the analysis counts
        self._first = 0  # FLOPs when the model was made
        self._removed = 0  # groups since then
        self._patience = 1  # of these before it is made anew, where it is off
        self._checks: dict[int, _Check] = {}
        self._begin(masks)

    @property
    def flops(self) -> int:
        """FLOPs at the present masks."""
        return (self._counted[0] if self._divided else self._model.flops) + self._more

    def estimates(self) -> NDArray[np.float64]:
        """What zeroing each group would save, of shape `(groups,)`; 0 for groups that are gone."""
        if self._divided:
            return self._counted[1].astype(np.float64)
        found = self._model.savings()
        for kind, check in self._checks.items():
            found[self._of_kind(kind)] += check.error
        return np.asarray(found)

    def follow(self, masks: Values) -> None:
        """Goes on from other masks, whoever set them."""
        if all(np.array_equal(a, b) for a, b in zip(self._masks, masks, strict=True)):
            return
        gone = [np.unique(g[(a != 0) & (b == 0)]) for g, a, b in zip(self._groups, self._masks, masks, strict=True)]
        removed = np.unique(np.concatenate(gone))
        expected = self.without(removed.tolist())
        if not self._divided and all(np.array_equal(a, b) for a, b in zip(expected, masks, strict=True)):
            self.remove(removed.tolist())
        else:
            self._begin(masks)

    def remove(self, groups: Sequence[int]) -> list[NDArray[np.float32]]:
        """Zeroes groups; returns the masks."""
        masks = self.without(groups)
        if self._divided:
            self._begin(masks)
            return masks
        doubtful = self._model.uncertain
        for group in groups:
            check = self._checks.get(int(self._model.kinds[group]))
            if check is not None and doubtful[group]:
                self._model.offset -= check.error
        self._model.remove(groups)
        self._masks = masks
        self._removed += len(groups)
        if self._model.flops < _AGAIN * self._first:
            self._begin(masks)
        return masks

    def without(self, groups: Sequence[int]) -> list[NDArray[np.float32]]:
        """Returns the masks without these groups."""
        return [mask * ~np.isin(g, groups) for mask, g in zip(self._masks, self._groups, strict=True)]

    def after(self, groups: Sequence[int]) -> int:
        """Returns the FLOPs without these groups; counted where savings may be off."""
        flops = None if self._divided else self._model.after(groups)
        return (self._cost.count(self.without(groups)) if flops is None else flops) + self._more

    def confirm(self, group: int) -> bool:
        """Whether what is said of a group that is about to be chosen is right, so far as it needs to be counted."""
        if self._divided or not self._model.uncertain[group]:
            return True
        check = self._checks.setdefault(int(self._model.kinds[group]), _Check(0.0))
        check.uses += 1
        if check.uses < check.interval:
            return True
        self.count()
        expected = float(self.estimates()[group])
        saving = self.flops - self._more - self._cost.count(self.without([group]))
        check.error += saving - expected
        check.uses = 0
        if abs(saving - expected) <= _CLOSE * max(abs(saving), 1):
            check.interval *= 2
            return True
        check.interval = 1
        if self._removed >= self._patience:
            self._patience *= 2
            self._begin(self._masks)
        return False

    def count(self) -> int:
        """Compiles the graph at the present masks; returns its FLOPs, which are right from then on."""
        if not self._divided and self._model.doubtful.any():
            self._model.correct(self._cost.count(self._masks))
        return self.flops

    def correct(self, flops: int) -> None:
        """Takes for granted what the model itself compiles to, with its present weights."""
        self._more += flops - self.flops

    def _begin(self, masks: Values) -> None:
        self._masks = [np.array(mask, np.float32) for mask in masks]
        if self._divided:
            self._counted = self._cost.by_group(self._masks, self._groups)
            return
        self._model = self._cost.model(self._masks, self._groups)
        self._first, self._removed = self._model.flops, 0
        self._checks = self._first_checks()

    def _first_checks(self) -> dict[int, _Check]:
        """For each kind of groups that may be off, by how much the first is."""
        model, checks = self._model, {}
        live = np.unique(np.concatenate([g[mask != 0] for g, mask in zip(self._groups, self._masks, strict=True)]))
        live = live[live >= 0]
        doubtful = live[model.doubtful[live]]
        kinds, first = np.unique(model.kinds[doubtful], return_index=True)
        savings, flops = model.savings(), model.flops
        with progress.stage("Counting what channels would save", total=len(kinds)) as stage:
            for kind, group in zip(kinds.tolist(), doubtful[first].tolist(), strict=True):
                saving = flops - self._cost.count(self.without([group]))
                checks[kind] = _Check(saving - float(savings[group]))
                stage.advance()
        return checks

    def _of_kind(self, kind: int) -> NDArray[np.bool_]:
        alive = np.zeros(self._model.groups, bool)
        for group, mask in zip(self._groups, self._masks, strict=True):
            alive[group[(mask != 0) & (group >= 0)]] = True
        return np.asarray((self._model.kinds == kind) & self._model.uncertain & alive)


def whole(coupled: Groups, groups: Groups) -> bool:
    """Whether entries that are coupled are always in the same group."""
    pairs = np.unique(np.stack([np.concatenate(coupled), np.concatenate(groups)]), axis=1)
    return bool(pairs.shape[1] == len(np.unique(pairs[0])))
