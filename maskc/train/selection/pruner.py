"""The host's side of pruning: which mask entries are removed, and what the model costs then."""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc.compilation.compile import shrink_with, timed
from maskc.compilation.options import CompileOptions
from maskc.errors import InputError, MaskcError, warn
from maskc.runtime.detect_cpu import table_name
from maskc.train.cost import ComputationalCost, compiled_flops
from maskc.train.mask_layer import MaskLayer
from maskc.train.masked_graph import has_value, sizes_left_open, value_of
from maskc.train.selection.ranking import grouped, kinds_of, live, ranked, ranked_in_multiples, uncoupled
from maskc.train.selection.savings import Analyses, Rows, Savings, without
from maskc.train.selection.settings import FlopsWeight, Settings, goal
from passes.targets import registry

#: an array for each mask, of shape `(channels,)`
Masks = Sequence[NDArray[Any]]

_TRIES = 8  # counts of groups that looked cheapest and were not
_CLOSE = 0.1  # to a latency, of it: measured, it is never quite as predicted
_NEAR = 1.05  # times the target: from here on it is the model with its present weights that counts


@dataclass(frozen=True)
class Pruned:
    """One entry that was set to zero: after which update, in which mask, and the FLOPs, or ms, left after that."""

    step: int
    mask: str
    channel: int
    flops: int | None = None
    ms: float | None = None


def diverged(mask: str) -> MaskcError:
    """Returns what to say where the importance of a mask's entries is no number."""
    return MaskcError(f"The importance score of the mask {mask!r} is not finite: training has diverged.")


def _failed(model: Any, names: Iterable[str], scores: Iterable[NDArray[np.floating]]) -> MaskcError | None:
    """What to say where a mask's score or a weight is no number; None if all are.

    A weight may be so alone, as behind it TensorFlow's relu makes 0 of NaN.
    """
    for name, score in zip(names, scores, strict=True):
        if not np.all(np.isfinite(score)):
            return diverged(name)
    for weight in () if model is None else model.trainable_variables:
        if not np.all(np.isfinite(value_of(weight))):
            return MaskcError(
                f"The weight {weight.path!r} is not finite: training has diverged, or the data hold infinity or NaN."
            )
    return None


def _target(model: Any, settings: Settings) -> float:
    """The target of the settings, if there is one and the FLOPs of the model can be counted."""
    asked = settings.flops_target if settings.latency_target is None else settings.latency_target
    if asked is None:
        raise InputError("PruningOptimizer needs to know how far to prune: flops_target=0.5 keeps half of the FLOPs.")
    if asked and (open_sizes := sizes_left_open(model)) and settings.sizes is None:
        raise InputError(
            f"The input of the model {model.name!r} leaves sizes open, {open_sizes}, and FLOPs depend on them: "
            "pass the sizes of an example to count at, as in sizes=(224, 224, 3)."
        )
    return asked


class Pruner:
    """Takes the decisions of a pruning optimizer for one model, in numpy.

    FLOPs are nanoseconds where the currency of the settings is time.

    Args:
        model: the model whose FLOPs count.
        layers: the layers whose masks may be pruned; others in the model stay as they are.
        settings: what to prune by, and how far.
        history: where to record what is pruned.

    Attributes:
        target: the FLOPs to reach.
        flops: FLOPs at the masks found in the model.
        before: FLOPs without masks, of a larger model if this is what is left of one.
        names: names of the prunable masks.
        failure: what a decision failed at; None if none did.
        raises: whether a decision that fails raises that; else somebody else does, who looks at `failure`.
        uncounted: whether a decision reached the target since the model was counted with its present weights.

    Raises:
        InputError: if the target cannot be reached, or the model cannot be converted.
    """

    def __init__(self, model: Any, layers: Sequence[MaskLayer], settings: Settings, history: Rows) -> None:
        self._model = weakref.ref(model)
        self._kept: Any = None  # the model, as long as it is still to be counted, whoever else drops it
        self._asked = _target(model, settings)
        self.currency = settings.currency
        self._cost = ComputationalCost(model, settings.sizes, self.currency.rates)
        index = {id(layer): position for position, layer in enumerate(self._cost.layers)}
        self._where = [index[id(layer)] for layer in layers]
        self.settings = settings = settings.planned(0)  # which leaves alone what is planned already
        self._history = history
        self._exhausted = False
        self.failure: MaskcError | None = None
        self.raises = True
        self.uncounted = False
        self._counting = False
        self.names = [self._cost.names[position] for position in self._where]

        masks = self._cost.masks()
        coupled = self._cost.coupled if settings.tie == "auto" else uncoupled([len(mask) for mask in masks])
        prunable = [position in self._where for position in range(len(masks))]
        self._groups = grouped(self._cost.layers, coupled, prunable)
        self._kinds = kinds_of(self._groups)
        self._full = self._cost.count([np.ones_like(mask) for mask in masks])
        to_the_last = settings.min_channels == 0
        self._analyses = Analyses(self._cost, self._groups, self._where, self._full, to_the_last)
        self._more = 0  # FLOPs of the model with its present weights beyond those that are counted
        self._follow(masks)
        self.before = settings.flops_before or self._full
        self.target = int(self._asked * (self.before if self._asked <= 1 else self.currency.scale))
        removable = bool((self._savings.estimates() > 0).any())
        self._unpruned = all(mask.all() for mask in masks)
        self._floor = self._fewest() if self.target or settings.schedule or not removable else 0
        self._warn_of_frozen()
        self._check_reachable()
        if not self._unpruned and self.flops <= _NEAR * self.target and all(map(has_value, model.weights)):
            self.correct()

    def _check_reachable(self) -> None:
        """Refuses a target below what the fewest channels cost, and warns of one that the model has from the start."""
        settings, said, shown = self.settings, self.currency.said, self.currency.shown
        least = max(settings.min_channels, settings.round_to)
        if least <= 1 and self._floor >= self.flops > self.target and self._unpruned:
            small = "" if self.currency.rates is None else "layers are too small to take less time, or "
            raise InputError(
                f"Nothing can be pruned: removing channels of the masks saves none of the {said(self.flops)}, as where "
                f"{small}these are its outputs, or are added to channels without a mask. Put masks where nothing but "
                "layers with weights reads the channels, or where all that is added has one."
            )
        if self.target and self._floor > self.target:
            multiple = f"round_to={settings.round_to}, " if settings.round_to > 1 else ""
            hint = (
                " Up to 1 it is a fraction of the FLOPs without masks."
                if 1 < (settings.flops_target or 0) <= 100
                else ""
            )
            raise InputError(
                f"{self.currency.target} cannot be reached: with as few channels as masks may keep ({multiple}"
                f"min_channels={settings.min_channels}) the model still has {said(self._floor)}, and the target is "
                f"{shown(self.target)}.{hint}"
            )
        if self.flops <= self.target and not self._history and settings.flops_before is None:
            warn(
                f"{self.currency.target} is {shown(self.target)}, and the model has {said(self.flops)} as it is: "
                "nothing will be pruned."
            )

    def _warn_of_frozen(self) -> None:
        frozen = [repr(name) for position, name in enumerate(self._cost.names) if position not in self._where]
        if frozen:
            more = f" and {len(frozen) - 3} more" if len(frozen) > 3 else ""
            warn(
                f"Nothing is pruned where masks are frozen: {', '.join(frozen[:3])}{more}. To prune what is frozen, "
                "set trainable=True for the masks and all models around them, and False for the other layers."
            )

    @property
    def flops(self) -> int:
        """FLOPs at the masks that were last looked at."""
        return self._savings.flops + self._more

    def at(self, masks: Sequence[NDArray[np.floating]]) -> int:
        """Returns the FLOPs at the given prunable masks, each of shape `(channels,)`, whoever set them."""
        self._follow(self._all(masks))
        return self.flops

    def ends_at(self, flops: int) -> bool:
        """Whether nothing more is pruned at these FLOPs: the target, or, where that is 0, the fewest there can be."""
        return flops <= self.target or (not self.target and (self._exhausted or flops <= self._floor))

    def updates_left(self, step: int) -> int:
        """Returns the fewest updates after update number `step` that come to the target; 0 if it is reached.

        If there is no schedule, each decision is taken to remove what saves most.
        """
        settings = self.settings
        if self.flops <= self.target or not self.target:
            return 0
        made = max(0, step - settings.burn_in) // settings.every
        if settings.schedule is None:
            made += self._fewest_decisions()
        else:
            made = max(made + 1, -(-settings.ramp // settings.every))
        return settings.burn_in + made * settings.every - step

    def _fewest_decisions(self) -> int:
        savings = self._savings
        order = list(self._order(savings.estimates()))
        return 1 + bisect_left(
            range(1, len(order)),
            True,
            key=lambda count: savings.without([*chain(*order[:count])]).model.flops <= self.target,
        )

    def correct(self) -> None:
        """Counts FLOPs with the present weights."""
        if self._counting:  # where a model is exported for that, TensorFlow asks its optimizer for each attribute
            return
        self._counting = True
        try:
            found = compiled_flops(self.model(), self.settings.sizes, self.currency.rates)
            self._more = found - self._savings.flops
        finally:
            self._counting = False

    def decide(self, step: int, *arrays: NDArray[np.floating]) -> list[NDArray[Any]]:
        """Prunes what is due: one group of entries (or `round_to`), or what the schedule asks for, down to the target.

        Args:
            step: the number of updates made.
            arrays: the prunable masks, then the importance of their entries, each of shape `(channels,)`.

        Returns:
            FLOPs (an int64 scalar), and the masks with more entries at zero; the same if none is left to prune.

        Raises:
            MaskcError: if a score is not a number.
        """
        given, scores = arrays[: len(self._where)], arrays[len(self._where) :]
        failure = _failed(self._model(), self.names, scores)
        if failure is not None:
            self.failure = failure
            if self.raises:
                raise failure
            return [np.asarray(self.flops, np.int64), *given]
        if step <= self.settings.burn_in:
            return [np.asarray(self.flops, np.int64), *given]
        masks = self._all(given)
        self._follow(masks)
        if self.uncounted:  # nobody counted between the steps, as in a loop that is one graph
            self.recount()
        before, exhausted = self.flops, False
        if before > self.target:
            importance = [np.zeros_like(mask) for mask in masks]
            for position, score in zip(self._where, scores, strict=True):
                importance[position] = np.asarray(score)
            self._warn_of_zeros(scores)
            exhausted = not self._prune(int(step), importance)
            masks = list(self._savings.masks)
        flops = self.flops
        # what weights add to the count may be another number at other masks
        self.uncounted = flops < before and (flops <= self.target or self._more > 0)
        if exhausted and not self.uncounted:
            self._warn_exhausted()
        self._kept = self._model() if self.uncounted else None
        pruned = [masks[position].astype(mask.dtype) for position, mask in zip(self._where, given, strict=True)]
        for index, (old, new) in enumerate(zip(given, pruned, strict=True)):
            self._history += [(int(step), index, channel, flops) for channel in np.flatnonzero(old != new).tolist()]
        return [np.asarray(flops, np.int64), *pruned]

    def recount(self) -> None:
        """Counts FLOPs with the present weights, and corrects the last rows of the history."""
        self.uncounted = False
        self._follow(self._cost.masks())
        self.correct()
        self._kept = None
        flops, rows = self.flops, self._history
        last = rows[-1][0] if rows else None
        rows[:] = [(*row[:3], flops) if row[0] == last else row for row in rows]
        options = self.currency.compiling
        if options is not None and flops <= self.target and self.settings.align_for == table_name():
            self._check_latency(options)

    def _check_latency(self, options: CompileOptions) -> None:
        """Warns if the model, compiled so, is slower than predicted, where this is the processor that it is for."""
        masks, told = self._cost.masks(), f"latency_target is {self._asked:g}, and"
        ones = [np.ones_like(mask) for mask in masks]
        try:
            models = [shrink_with(self._cost.at_masks(of), options).model for of in (ones, masks)]
            latency = timed(models[0], models[1], registry.kind(options.target).CPU)
        except MaskcError as error:
            told += f" the latency was not measured: {error}"
        else:
            # of quartiles the least, as training has the processor, too
            found, most, unit = latency.after[0], self.target / self.currency.scale, "ms"
            if self._asked <= 1:
                found, most, unit = found / latency.before[0], self.target / self._full, "of the time without masks"
            if found <= (1 + _CLOSE) * most:
                return
            told += f" was missed: measured here, the model takes {found:.3g} {unit}."
        warn(told)

    def model(self) -> Any:
        """Returns the model. Raises MaskcError if it no longer exists."""
        if (model := self._model()) is None:
            raise MaskcError("The model that this optimizer prunes no longer exists.")
        return model

    def _follow(self, masks: list[NDArray[np.float32]]) -> None:
        """Goes on from these masks, whoever set them."""
        self._savings = self._analyses.after(self._history, masks)

    def _all(self, prunable: Sequence[NDArray[np.floating]]) -> list[NDArray[np.float32]]:
        """All masks of the model, of which these may be pruned."""
        masks = self._cost.masks()
        for position, mask in zip(self._where, prunable, strict=True):
            masks[position] = np.array(mask, np.float32)
        return masks

    def _prune(self, step: int, importance: Masks) -> bool:
        """Zeroes entries, as many as are due; False where too few are left."""
        if self.settings.schedule is None:
            chosen = self._first(importance)
            if chosen is None or self._all_is_saved(chosen):
                return False
            self._savings = self._savings.without(chosen)
            return True
        asked = max(self.target, self._floor)
        asked = goal(self.settings.schedule, step, self.settings.burn_in, self.settings.ramp, self.before, asked)
        while self.flops > asked:
            # What a group saves changes as others are removed, so each round closes no more than half of what is left.
            half, saved, order = (self.flops - asked) / 2, 0.0, []
            estimates = self._savings.estimates()
            for chosen in self._ranked(self._savings, importance):
                order.append(chosen)
                saved += estimates[chosen].sum()
                if saved >= half:
                    break
            if not order:
                return False
            if self._saved(order) > 1.1 * saved:
                # It even changes a lot, so that fewer do (after a normalisation, say, where the first saves little).
                enough = bisect_left(range(1, len(order) + 1), True, key=lambda n: self._saved(order[:n]) >= half)
                order = order[: enough + 1]
            self._savings = self._savings.without([*chain(*order)])
        return True

    def _all_is_saved(self, chosen: list[int]) -> bool:
        """Whether neither these groups save anything nor all that may go, as where channels are outputs."""
        return self._savings.estimates()[chosen].sum() <= 0 and self._fewest() >= self.flops

    def _saved(self, order: Sequence[list[int]]) -> int:
        """FLOPs that zeroing all of these groups saves."""
        return self._savings.flops - self._savings.without([*chain(*order)]).flops

    def _first(self, importance: Masks) -> list[int] | None:
        """The groups to remove, once what they save is certain; None if there is none."""
        savings = self._savings
        for _ in range(_TRIES):
            chosen = next(self._ranked(savings, importance), None)
            corrected = savings if chosen is None else savings.confirmed(chosen)
            if corrected is savings:
                return chosen
            savings = corrected
        return next(self._ranked(savings, importance), None)

    def _ranked(self, savings: Savings, importance: Masks) -> Iterator[list[int]]:
        """Groups that are removed together, the least important first."""
        settings, enough = self.settings, np.inf
        if settings.flops_weight == "auto":
            # Else an entry that saves far more than is missing would look cheap, and quality be lost for nothing.
            enough = max(self.flops - self.target, 1)
        return self._order(savings.estimates(), importance, settings.flops_weight, enough)

    def _order(
        self,
        savings: NDArray[np.float64],
        importance: Masks | None = None,
        flops_weight: FlopsWeight = 1.0,
        enough: float = np.inf,
    ) -> Iterator[list[int]]:
        """Groups that are removed together, in the order of their rank; what saves most first if none is important."""
        masks, least = self._savings.masks, self.settings.min_channels
        importance = [np.zeros_like(mask) for mask in masks] if importance is None else importance
        if self.settings.round_to == 1 and self.currency.rates is None:
            chosen = ranked(masks, importance, self._groups, np.minimum(savings, enough), flops_weight, least)
            return ([group] for group in chosen)
        given = masks, importance, self._groups, self._kinds, savings
        return ranked_in_multiples(*given, flops_weight, least, self._units(), enough)

    def _units(self) -> NDArray[np.int64]:
        """How many groups of each kind go at a time."""
        rates, round_to, kinds = self.currency.rates, self.settings.round_to, self._kinds
        count = np.bincount(kinds)
        if rates is None or round_to > 1:
            return np.where(count < round_to, 1, round_to)
        left = np.bincount(kinds[live(self._savings.masks, self._groups, len(kinds))], minlength=len(count))
        channels = np.zeros_like(count)
        np.maximum.at(channels, kinds, self._savings.model.channels)
        return np.array([rates.groups_at_once(*each) for each in zip(left.tolist(), channels.tolist(), strict=True)])

    def _fewest(self) -> int:
        """FLOPs when every mask is down to its fewest channels.

        Which ones are left matters where masks meet, in a sum say: the groups that save most are removed first, or the
        last, which leaves the same channels in masks of equal sizes.
        """
        floors, savings = [], self._savings.estimates()
        for first in (savings, np.arange(len(savings), dtype=np.float64)):
            removed = chain.from_iterable(self._order(first))
            floors.append(self._cost.count(without(self._savings.masks, self._groups, list(removed))))
        return min(floors)

    def _warn_of_zeros(self, scores: Sequence[NDArray[np.floating]]) -> None:
        if self._history or any(score.any() for score in scores):
            return
        warn(
            "Every importance score is 0, so channels are pruned by what they save alone: the loss does not depend on "
            "what is masked, as where it is constant, or the gradient is stopped after the masks."
        )

    def _warn_exhausted(self) -> None:
        if self._exhausted:
            return
        self._exhausted = True
        if not self.target:
            return
        least = max(self.settings.min_channels, self.settings.round_to)
        warn(
            f"Every mask is down to {least} channel(s), and the model still has {self.currency.said(self.flops)}, "
            f"above the target of {self.currency.shown(self.target)}."
        )
