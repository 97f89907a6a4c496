"""FLOPs and savings of mask entries at some masks: by the cost model, and counted where that may be off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from maskc import progress
from maskc.train.cost import ComputationalCost, Values
from maskc.train.selection.ranking import Groups, count_of, live
from passes.mask_savings.cost_model import CostModel

#: The entries pruned so far: step, index of the prunable mask, channel, and FLOPs left.
Rows = list[tuple[int, int, int, int]]

_CLOSE = 0.01  # a saving that is off by less is right


@dataclass(frozen=True)
class _Error:
    """By how much a saving is off: counted when it is first needed, by compiling at these masks and without groups."""

    cost: ComputationalCost
    masks: Values
    without: Values
    expected: float
    groups: int

    @cached_property
    def flops(self) -> float:
        """For each of the groups."""
        return (self.cost.count(self.masks) - self.cost.count(self.without) - self.expected) / self.groups

    @property
    def is_counted(self) -> bool:
        return "flops" in vars(self)


@dataclass(frozen=True)
class Savings:
    """FLOPs at some masks, and what each group of entries would save there.

    They follow from one analysis (`passes.cost_model`), in milliseconds. For the groups of which it says that they may
    be off, one of each kind is counted by compiling the graph without it at the masks of the analysis, and again when
    1, 2, 4, 8, ... of the kind are gone: the first may save nothing, where a constant channel takes its place that
    serves the others as well. The one that is about to be chosen is counted in any case.

    Attributes:
        masks: for each layer, of shape `(channels,)`.
        model: FLOPs and savings at these masks by the analysis alone.
    """

    masks: Values
    model: CostModel
    _cost: ComputationalCost
    _groups: Groups
    _to_the_last: bool
    _kinds: NDArray[np.int64]
    _removed: Counter[int] = field(default_factory=Counter)  # groups of each kind that are gone since the analysis
    _errors: Mapping[int, _Error] = field(default_factory=dict)  # by kind
    _corrections: Mapping[int, float] = field(default_factory=dict)  # by kind, in the course of a decision

    @property
    def flops(self) -> int:
        """FLOPs at these masks; counted where savings may be off."""
        return self.model.flops if self.model.exact and self._cost.rates is None else self._cost.count(self.masks)

    def estimates(self) -> NDArray[np.float64]:
        """What zeroing each group would save, of shape `(groups,)`; 0 for groups that are gone."""
        savings = self.model.savings()
        if self._errors or self._corrections:
            _count(self._errors.values())
            off = self._live() & self.model.uncertain
            for kind in {*self._errors, *self._corrections}:
                error = self._errors[kind].flops if kind in self._errors else 0.0
                savings[off & (self._kinds == kind)] += error + self._corrections.get(kind, 0.0)
        return np.asarray(savings)

    def without(self, groups: Sequence[int]) -> Savings:
        """Returns what holds without these groups, within a decision."""
        return replace(self, masks=without(self.masks, self._groups, groups), model=self.model.without(groups))

    def decided(self, groups: Sequence[int]) -> Savings:
        """Returns what holds after a decision to zero these groups: errors are counted again where that is due."""
        after, gone = self.without(groups), Counter(self._kinds[groups].tolist())
        removed = self._removed + gone
        steps = self._cost.rates is not None  # then the next block may save more than the last, or nothing
        due = [kind for kind in gone if steps or removed[kind].bit_length() > self._removed[kind].bit_length()]
        return replace(after.counted(due), _removed=removed)

    def at(self, masks: Values) -> Savings | None:
        """Returns what holds after a decision that led to other masks; None if more differs than groups that went."""
        if _same(self.masks, masks):
            return self
        pairs = zip(self._groups, self.masks, masks, strict=True)
        gone = np.unique(np.concatenate([g[(now != 0) & (then == 0)] for g, now, then in pairs]))
        if (gone < 0).any() or not _same(without(self.masks, self._groups, gone.tolist()), masks):
            return None
        return self.decided(gone.tolist())

    def confirmed(self, groups: Sequence[int]) -> Savings:
        """Returns these savings if those of groups that are about to be chosen are right, else corrected ones."""
        off = [group for group in groups if self.model.uncertain[group]]
        if not off:
            return self
        saving = self.flops - self._cost.count(without(self.masks, self._groups, groups))
        error = saving - float(self.estimates()[groups].sum())
        if abs(error) <= _CLOSE * max(abs(saving), 1):
            return self
        more = {kind: self._corrections.get(kind, 0.0) + error / len(off) for kind in self._kinds[off].tolist()}
        return replace(self, _corrections={**self._corrections, **more})

    def counted(self, kinds: Collection[int]) -> Savings:
        """Returns the same where the errors of these kinds, each by its first ones, are those at the present masks."""
        off = self.model.uncertain if self._to_the_last else self.model.doubtful
        if not off.any():
            return self
        off = off & self._live()
        errors, savings = dict(self._errors), self.model.savings()
        for kind in kinds:
            if first := self._first(np.flatnonzero(off & (self._kinds == kind)).tolist()):
                fewer = without(self.masks, self._groups, first)
                errors[kind] = _Error(self._cost, self.masks, fewer, float(savings[first].sum()), len(first))
        return replace(self, _errors=errors)

    def _first(self, groups: list[int]) -> list[int]:
        """As many of these groups, all of a kind, as go together first."""
        rates, channels = self._cost.rates, self.model.channels
        step = 1 if rates is None or not groups else rates.groups_at_once(len(groups), int(channels[groups[0]]))
        return groups[: len(groups) % step or step]

    def _live(self) -> NDArray[np.bool_]:
        return live(self.masks, self._groups, self.model.groups)


def _count(errors: Iterable[_Error]) -> None:
    """Count those errors that are not counted yet, one after the other."""
    if waiting := [error for error in errors if not error.is_counted]:
        with progress.stage("Counting what channels would save", total=len(waiting)) as stage:
            for error in waiting:
                _ = error.flops
                stage.advance()


class Analyses:
    """The latest analysis, and the savings at the present masks by it.

    It is made at the decision after which the FLOPs had halved and, where savings may be off, at the last of decisions
    1, 2, 4, 8, ... after that. Where groups divide what is coupled, no saving follows from another, and it is made at
    each decision. So what is said follows from the decisions that were made, in whichever run.

    Args:
        cost: of the model.
        groups: for each mask the group of its entries, of shape `(channels,)`; -1 for entries that stay.
        prunable: which of the masks are prunable, in the order of the history.
        full: FLOPs without masks.
        to_the_last: whether a mask may lose its last channel. What these save is then counted as well.
    """

    _halved = _latest = -1  # the decisions at which analyses were made: the first since FLOPs halved, and the latest
    _often = False
    _savings: Savings

    def __init__(
        self, cost: ComputationalCost, groups: Groups, prunable: Sequence[int], full: int, to_the_last: bool
    ) -> None:
        self._cost, self._groups, self._prunable, self._to_the_last = cost, groups, prunable, to_the_last
        self._full = full
        pairs = np.unique(np.stack([np.concatenate(cost.coupled), np.concatenate(groups)]), axis=1)
        self._divided = pairs.shape[1] > len(np.unique(pairs[0]))  # whether coupled entries are in several groups

    def after(self, history: Rows, masks: Values) -> Savings:
        """Returns FLOPs and savings at all the masks as they are after these decisions."""
        flops = [self._full, *{step: left for step, *_, left in history}.values()]
        levels = [(self._full // max(left, 1)).bit_length() for left in flops]
        decisions, halved = len(levels) - 1, levels.index(levels[-1])
        if halved != self._halved:
            self._halved = halved
            self._analyse(history, masks, halved)
            self._often = bool(self._savings.model.doubtful.any())
        due = decisions if self._divided else 1 << decisions.bit_length() >> 1
        if self._often and due > self._latest:
            self._analyse(history, masks, due)
        # None if somebody else has set masks
        self._savings = self._savings.at(masks) or self._analysed(masks)
        return self._savings

    def _analysed(self, masks: Values) -> Savings:
        """FLOPs and savings at some masks, by an analysis of the compiled graph."""
        masks = [np.array(mask, np.float32) for mask in masks]
        model = self._cost.model(masks, self._groups)
        uncertain = self._to_the_last or bool(model.doubtful.any())
        kinds = self._cost.kinds(masks, self._groups) if uncertain else np.arange(model.groups)
        savings = Savings(masks, model, self._cost, self._groups, self._to_the_last, kinds)
        return savings.counted(np.unique(kinds).tolist()) if uncertain else savings

    def _analyse(self, history: Rows, masks: Values, decisions: int) -> None:
        """Go on from an analysis after so many decisions."""
        entries: dict[int, list[tuple[int, int]]] = {}
        for step, index, channel, _ in history:
            entries.setdefault(step, []).append((self._prunable[index], channel))
        later, then = list(entries.values())[decisions:], [np.array(mask, np.float32) for mask in masks]
        for position, channel in chain.from_iterable(later):
            then[position][channel] = 1
        self._latest = decisions
        self._savings = self._analysed(then)
        for removed in later:
            groups = {int(self._groups[position][channel]) for position, channel in removed}
            self._savings = self._savings.decided(sorted(groups))


def without(masks: Values, groups: Groups, gone: Sequence[int]) -> list[NDArray[np.float32]]:
    """Returns masks, for each layer of shape `(channels,)`, in which these groups are zero as well."""
    stay = np.ones(count_of(groups) + 1, np.float32)  # the last is that of entries without a group
    stay[gone] = 0
    return [np.asarray(mask * stay[group], np.float32) for mask, group in zip(masks, groups, strict=True)]


def _same(masks: Values, others: Values) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(masks, others, strict=True))
