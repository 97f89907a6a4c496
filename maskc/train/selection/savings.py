"""What groups of mask entries save: at once from a cost model, and counted where that may be off."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskc import progress
from maskc.train.cost import ComputationalCost, Values
from maskc.train.selection.ranking import Groups
from passes.mask_savings.cost_model import CostModel

_CLOSE = 0.01  # a saving that is off by less is right


@dataclass(frozen=True)
class Past:
    """The decisions made so far.

    flops: before the first and after each. removed: the entries that each removed, by mask and channel. masks: as they
    are now.
    """

    flops: Sequence[int]
    removed: Sequence[Sequence[tuple[int, int]]]
    masks: Values

    def after(self, decisions: int) -> list[NDArray[np.float32]]:
        """Returns the masks after so many decisions."""
        then = [np.array(mask, np.float32) for mask in self.masks]
        for position, channel in itertools.chain(*self.removed[decisions:]):
            then[position][channel] = 1
        return then


class Savings:
    """FLOPs at some masks, and what each group of entries would save.

    They follow from one analysis (`passes.cost_model`), in milliseconds. For the groups of which it says that they may
    be off, one of each kind is counted by compiling the graph without it when the analysis is made, and again when 1,
    2, 4, 8, ... of the kind are gone: the first may save nothing, where a constant channel takes its place that serves
    the others as well. The one that is about to be chosen is counted in any case. The analysis is made anew where the
    FLOPs have halved, and, where groups may be off, after 1, 2, 4, 8, ... decisions. So what is said follows from the
    decisions that were made, in whichever run.

    Where groups divide what is coupled, no saving follows from another, and all are counted each time.

    Args:
        cost: of the model.
        groups: for each mask the group of its entries, of shape `(channels,)`; -1 for entries that stay.
        past: the decisions that led to the masks to begin with.
        full: FLOPs without masks.
        to_the_last: whether a mask may lose its last channel. What these save is then counted as well.
    """

    _model: CostModel
    _counted: tuple[int, NDArray[np.int64]]  # in place of the model, where coupled entries are divided
    _unseen: list[int]  # groups removed since the last decision began
    _removed: dict[int, int]  # how many groups of each kind, since the analysis was made

    def __init__(
        self, cost: ComputationalCost, groups: Groups, past: Past, full: int, to_the_last: bool = False
    ) -> None:
        self._cost = cost
        self._to_the_last = to_the_last
        self._groups = groups
        self._full = full
        self._divided = not _whole(cost.coupled, groups)
        self._more = 0  # FLOPs of the model with its present weights beyond those that the analysis counts
        self._errors: dict[int, float] = {}  # of the analysis, by kind of groups
        self._errors_then: dict[int, float] = {}  # the same when the decision began
        self._decisions = 0
        self._replay(past)

    @property
    def flops(self) -> int:
        """FLOPs at the present masks."""
        return (self._counted[0] if self._divided else self._model.flops) + self._more

    def estimates(self) -> NDArray[np.float64]:
        """What zeroing each group would save, of shape `(groups,)`; 0 for groups that are gone."""
        if self._divided:
            return self._counted[1].astype(np.float64)
        found, model = self._model.savings(), self._model
        if self._errors:
            off = self._alive() & model.uncertain
            for kind, error in self._errors.items():
                found[off & (model.kinds == kind)] += error
        return np.asarray(found)

    def follow(self, masks: Values, decisions: int) -> None:
        """Goes on from other masks, whoever set them.

        Args:
            masks: for each layer, of shape `(channels,)`.
            decisions: how many were made so far.
        """
        self._go_to(masks, decisions)
        if self._is_due(decisions, self.flops):
            self._begin(masks, decisions)
        else:
            self._count_kinds(self._due_kinds(self._unseen))
        self._unseen = []
        self._errors = dict(self._errors_then)

    def remove(self, groups: Sequence[int]) -> list[NDArray[np.float32]]:
        """Zeroes groups; returns the masks."""
        masks = self.without(groups)
        if self._divided:
            self._begin(masks, self._decisions)
        else:
            self._model.remove(groups)
            self._unseen += groups
            self._masks = masks
            self.count()
        return masks

    def without(self, groups: Sequence[int]) -> list[NDArray[np.float32]]:
        """Returns the masks without these groups."""
        return [mask * ~np.isin(g, groups) for mask, g in zip(self._masks, self._groups, strict=True)]

    def after(self, groups: Sequence[int]) -> int:
        """Returns the FLOPs without these groups; counted where savings may be off."""
        flops = None if self._divided else self._model.after(groups)
        return (self._cost.count(self.without(groups)) if flops is None else flops) + self._more

    def confirm(self, groups: Sequence[int]) -> bool:
        """Whether what is said of groups that are about to be chosen is right; if it was not, it is now."""
        if self._divided or not self._model.uncertain[groups].any():
            return True
        expected = float(self.estimates()[groups].sum())
        saving = self.flops - self._more - self._cost.count(self.without(groups))
        off = [group for group in groups if self._model.uncertain[group]]
        for kind in set(self._model.kinds[off].tolist()):
            self._errors[kind] = self._errors.get(kind, 0.0) + (saving - expected) / len(off)
        return abs(saving - expected) <= _CLOSE * max(abs(saving), 1)

    def count(self) -> int:
        """Compiles the graph at the present masks; returns its FLOPs, which are right from then on."""
        if not self._divided and (self._model.doubtful.any() or self._model.emptied):
            self._model.correct(self._cost.count(self._masks))
        return self.flops

    def correct(self, flops: int) -> None:
        """Takes for granted what the model itself compiles to, with its present weights."""
        self._more += flops - self.flops

    def _level(self, flops: int) -> int:
        """How often the FLOPs without masks have been halved."""
        return int(np.log2(max(self._full, 1) / max(flops, 1)))

    def _is_due(self, decisions: int, flops: int) -> bool:
        """Whether the analysis is to be made anew after so many decisions."""
        if self._divided or decisions <= self._decisions:
            return False
        of_two = decisions & (decisions - 1) == 0
        return self._level(flops) > self._level_then or bool(of_two and self._model.doubtful.any())

    def _begin(self, masks: Values, decisions: int) -> None:
        self._masks = [np.array(mask, np.float32) for mask in masks]
        self._decisions = decisions
        self._unseen, self._removed = [], {}
        self._errors_then = {}
        if self._divided:
            self._counted = self._cost.by_group(self._masks, self._groups)
            return
        self._model = self._cost.model(self._masks, self._groups)
        self._level_then = self._level(self.flops)
        self._count_kinds(np.unique(self._model.kinds).tolist())
        self._errors = dict(self._errors_then)

    def _replay(self, past: Past) -> None:
        """Does what was done after each of these decisions, as far as it still matters."""
        flops = past.flops
        first = next(n for n, left in enumerate(flops) if self._level(left) == self._level(flops[-1]))
        self._begin(past.after(first), first)
        counted: dict[int, int] = {}  # kinds, and the decision after which they were last counted
        for decisions in range(first + 1, len(flops)):
            if self._is_due(decisions, flops[decisions]):
                self._begin(past.after(decisions), decisions)
                counted = {}
            else:
                removed = {int(self._groups[position][channel]) for position, channel in past.removed[decisions - 1]}
                counted |= dict.fromkeys(self._due_kinds(removed), decisions)
        for decisions in sorted(set(counted.values())):
            self._go_to(past.after(decisions), decisions)
            self._count_kinds([kind for kind, last in counted.items() if last == decisions])
        self._go_to(past.masks, len(flops) - 1)
        self._unseen = []
        self._errors = dict(self._errors_then)

    def _go_to(self, masks: Values, decisions: int) -> None:
        """Removes what is gone in these masks; begins anew where more than that differs."""
        if not _same(self._masks, masks):
            gone = [np.unique(g[(a != 0) & (b == 0)]) for g, a, b in zip(self._groups, self._masks, masks, strict=True)]
            removed = np.unique(np.concatenate(gone))
            if not self._divided and (removed >= 0).all() and _same(self.without(removed.tolist()), masks):
                self.remove(removed.tolist())
            else:
                self._begin(masks, decisions)
        self.count()

    def _due_kinds(self, removed: Collection[int]) -> list[int]:
        """The kinds of which 1, 2, 4, 8, ... are gone now that these groups were removed."""
        due = []
        for kind, number in Counter(self._model.kinds[list(removed)].tolist() if removed else ()).items():
            before = self._removed.get(kind, 0)
            self._removed[kind] = before + number
            if (before + number).bit_length() > before.bit_length():
                due.append(kind)
        return due

    def _count_kinds(self, kinds: Collection[int]) -> None:
        """Counts of each of these kinds by how much the first group is off, where any may be."""
        if not kinds:
            return
        model = self._model
        off = model.uncertain if self._to_the_last else model.doubtful
        doubtful = np.flatnonzero(self._alive() & off & np.isin(model.kinds, list(kinds)))
        chosen, first = np.unique(model.kinds[doubtful], return_index=True)
        savings, flops = model.savings(), model.flops
        with progress.stage("Counting what channels would save", total=len(chosen)) as stage:
            for kind, group in zip(chosen.tolist(), doubtful[first].tolist(), strict=True):
                without = self._cost.count(self.without([group]))
                self._errors_then[kind] = flops - without - float(savings[group])
                stage.advance()

    def _alive(self) -> NDArray[np.bool_]:
        """The groups with an entry that is not zero, of shape `(groups,)`."""
        alive = np.zeros(self._model.groups, bool)
        for group, mask in zip(self._groups, self._masks, strict=True):
            alive[group[(mask != 0) & (group >= 0)]] = True
        return alive


def _same(masks: Values, others: Values) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(masks, others, strict=True))


def _whole(coupled: Groups, groups: Groups) -> bool:
    """Whether entries that are coupled are always in the same group."""
    pairs = np.unique(np.stack([np.concatenate(coupled), np.concatenate(groups)]), axis=1)
    return bool(pairs.shape[1] == len(np.unique(pairs[0])))
