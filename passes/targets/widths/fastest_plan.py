"""Comparison of plans by a table of rates: with and without adapters and constant maps, each with its fastest widths.

Where several runtimes count, the widths are those for the first, without those that cost the others too much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from passes.graph.tensors import Mask, static_shape
from passes.planning.planner import Planner, PlanOptions
from passes.rewriting.storage_plan import NO_FLOOR, Key, StorageFloor, StoragePlan, everything, untouched
from passes.targets.widths.coupled_slices import CoupledSlices
from passes.targets.widths.estimated_time import Timing
from passes.targets.widths.plan_steps import Gains, Network, PlanSteps
from passes.targets.widths.rates import Rates
from passes.targets.widths.width_search import fastest_widths, gains_of

# The share of a model's time that is worth computing channels which could be removed. It must come to what the rates
# say, too: in a network of some microseconds the overhead of operators decides, and a table is too rough for the rest.
_SHARE = 0.02

# The share that is worth it however little time it is.
_LARGE_SHARE = 0.15

# The share that is worth it however little time it is, where sizes are open: then one example is estimated, and many
# may be computed at once. What operators take by themselves does not grow with them and is not counted.
_SHARE_OPEN = 0.05

# How many times as long as the best so far a plan without adapters may take by a first look, in which its widths are
# not rounded, to be made: all that were better took less than 1.24 times as long, or saved less than a hundredth. One
# with adapters, and without constant maps that are added, was never better where it looked worse.
_HOPE, _HOPE_WITH_ADAPTERS = 1.25, 1.0

# By what share a plan with adapters must be faster than one without: what they take depends on sizes that are open, and
# on the runtime, more than anything else does.
_DOUBT_OF_ADAPTERS = 0.05


@dataclass(frozen=True)
class _Weighed:
    """What a plan takes in each of the runtimes that count; the first is the one that widths are chosen for."""

    timings: tuple[Timing, ...]
    weights: tuple[float, ...]

    def total(self, gains: Gains | None = None) -> float:
        """Nanoseconds, of several runtimes in the mean."""
        parts = zip(self.weights, self.timings, strict=True)
        return sum(weight * timing.total(gains) for weight, timing in parts)

    def without(self, *, maps: bool = False, adapters: bool = False) -> _Weighed:
        """As `PlanSteps.without`."""
        relieved = self.timings[0].plan.without(maps=maps, adapters=adapters)
        return replace(self, timings=tuple(timing.of_relieved(relieved) for timing in self.timings))


@dataclass(frozen=True)
class _Choice:
    """A plan, and how many nanoseconds it is estimated to take."""

    plan: StoragePlan
    options: PlanOptions
    weighed: _Weighed
    time: float

    @property
    def timing(self) -> Timing:
        """That of the first runtime."""
        return self.weighed.timings[0]

    @property
    def doubt(self) -> float:
        """How many times as long it is to be taken for when it is compared with others."""
        return 1 + _DOUBT_OF_ADAPTERS if self.timing.plan.adapters else 1.0

    def compared(self) -> float:
        """Nanoseconds, with the doubt about them."""
        return self.time * self.doubt


@dataclass(frozen=True)
class _Estimate:
    """How many nanoseconds a plan would take with the widths that `floor` gives it, if nothing else changed.

    extras: how many more of each coupling that stores.
    """

    start: _Choice
    coupled: CoupledSlices
    extras: dict[int, int]
    floor: StorageFloor
    time: float

    def compared(self) -> float:
        """Nanoseconds, with the doubt about them."""
        return self.time * self.start.doubt

    def first_look(self, other: _Weighed, wanted: Iterable[tuple[Key, Mask]]) -> float:
        """Nanoseconds of a plan of these timings which stores these slices, too, as far as can be told without it."""
        more, couplings = self.coupled.needed(wanted), dict(enumerate(self.coupled.found))
        numbers = self.extras.keys() | more.keys()
        together, largest = (
            {n: combined((self.extras.get(n, 0), more.get(n, 0))) for n in numbers} for combined in (sum, max)
        )
        tried = [together] if together == largest else [together, largest]
        return min(other.total(gains_of(other.timings[0], couplings, extras)) for extras in tried)


def fastest_plan(
    planner: Planner, plan: StoragePlan, rates: Rates, options: PlanOptions
) -> tuple[StoragePlan, PlanOptions, float | None]:
    """The plan that rates say is the fastest, how it was made, and its speedup beside `plan`, made with these options.

    That is `plan` itself, and no speedup, where little is won.
    """
    comparison = _Comparison(planner, rates)
    if not comparison.has_convolutions:
        return plan, options, None
    first = comparison.choice(options, made=plan)
    best = comparison.best(comparison.estimates(first))
    if comparison.whole < best.time and options.adapters != "always":
        words = "kept, because the model with fewer channels is estimated to be slower"
        best = comparison.choice(options, everything(plan, words))
    if first.time <= comparison.whole and not _is_worth_it(planner.graph, first, best):
        return plan, options, None
    return best.plan, best.options, first.compared() / best.compared()


class _Comparison:
    """Plans of one graph, and what they take.

    whole: nanoseconds of the graph with all of its channels, in the first runtime.
    """

    def __init__(self, planner: Planner, rates: Rates) -> None:
        self._planner = planner
        self._network = Network(planner.graph, planner.facts)
        self._runtimes = [rates] if rates.beside is None else [rates, rates.beside]
        steps = PlanSteps(self._network, untouched(planner.graph))
        self.has_convolutions = any(step.convolution for step in steps.steps)
        wholes = [Timing(steps, each).total() for each in self._runtimes if self.has_convolutions]
        self.whole = wholes[0] if wholes else 0.0
        # each as a share of all channels' time
        self._weights = tuple(self.whole / total / len(wholes) for total in wholes)

    def choice(self, options: PlanOptions, floor: StorageFloor = NO_FLOOR, made: StoragePlan | None = None) -> _Choice:
        """A plan with these options, or one that was made with them, and what it takes."""
        result = self._planner.plan(options, floor) if made is None else made
        steps = PlanSteps(self._network, result)
        weighed = _Weighed(tuple(Timing(steps, each) for each in self._runtimes), self._weights)
        return _Choice(result, options, weighed, weighed.total())

    def estimate(self, start: _Choice) -> _Estimate:
        """The plan with the widths that are fastest for it."""
        coupled = CoupledSlices(self._planner.graph, self._planner.facts, start.plan)
        couplings = dict(enumerate(coupled.found))
        extras = fastest_widths(start.weighed.timings, couplings)
        if not extras:
            return _Estimate(start, coupled, extras, start.plan.floor, start.time)
        floor = coupled.with_spare(extras, "which runs faster than {}")
        time = start.weighed.total(gains_of(start.timing, couplings, extras))
        return _Estimate(start, coupled, extras, floor, time)

    def estimates(self, first: _Choice) -> list[_Estimate]:
        """Of a plan, and of those without its adapters or added constant maps that may be better by a first look."""
        found, mapped = self.estimate(first), first.timing.plan.mapped
        restored = found.coupled.restored if first.options.adapters == "auto" and first.timing.plan.adapters else []
        looks = []
        for maps, adapters in ((False, True), (True, False), (True, True)):  # what to do without
            if (mapped or not maps) and (restored or not adapters):
                wanted = [*(mapped if maps else ()), *(restored if adapters else ())]
                look = found.first_look(first.weighed.without(maps=maps, adapters=adapters), wanted)
                looks.append((not adapters, look, maps, adapters))
        estimates = [found]
        for _, look, maps, adapters in sorted(looks):
            hope = _HOPE if adapters else _HOPE_WITH_ADAPTERS
            if look < hope * min(estimate.time for estimate in estimates):
                policy = "never" if adapters else first.options.adapters
                options = replace(first.options, adapters=policy, adds_maps=not maps)
                estimates.append(self.estimate(self.choice(options)))
        return estimates

    def best(self, estimates: list[_Estimate]) -> _Choice:
        """The fastest of the plans; one with other widths is made only where it may be that."""
        best = min((estimate.start for estimate in estimates), key=_Choice.compared)
        for estimate in sorted(estimates, key=_Estimate.compared):
            if estimate.compared() < best.compared():
                best = min(best, self.choice(estimate.start.options, estimate.floor), key=_Choice.compared)
        return best


def _is_worth_it(graph: gs.Graph, before: _Choice, after: _Choice) -> bool:
    """Whether the second plan is faster by what is worth computing channels which could be removed."""
    gain = before.compared() - after.compared()
    worth = min(before.timing.rates.least_gain_ns, _LARGE_SHARE * before.time)
    if gain <= 0 or gain >= max(worth, _SHARE * before.time):
        return gain > 0
    if all(static_shape(tensor) is not None for tensor in graph.inputs):
        return False
    rates = replace(before.timing.rates, ns_per_node=0.0)
    first, second = (Timing(choice.timing.plan, rates).total() for choice in (before, after))
    return first - second > _SHARE_OPEN * first
