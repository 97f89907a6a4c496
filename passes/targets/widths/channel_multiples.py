"""Which channels that could be removed stay after all, because a rounder width runs faster.

They are constant or have no reader, so the function is the same whether they are computed or not. A plan stores as
little as it can; some axes then have widths for which there are no fast kernels. Slices that are only stored together
(`coupled_slices.py`) get the same number of spare ones. By a table of rates (`estimated_time.py`) these numbers are
improved one after the other until nothing gets faster, once from the plan as it is and once from round widths
everywhere, as a convolution may only gain where both of its sides are round. Where several runtimes count, the numbers
are those for the first, without those that cost the others too much. The graph is planned again with what was found,
and the plan that is estimated to be faster is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Mask, describe, numpy_dtype, static_shape
from passes.ops import rules
from passes.planning.planner import Planner, PlanOptions
from passes.rewriting.storage_plan import NO_FLOOR, Key, StorageFloor, StoragePlan, untouched
from passes.targets.widths.coupled_slices import CoupledSlices, Coupling
from passes.targets.widths.estimated_time import Blocked, Timing
from passes.targets.widths.plan_steps import Gains, Network, PlanSteps, picked
from passes.targets.widths.rates import Lines, Rates
from passes.targets.widths.wider_layers import WiderPlan, Width

#: a multiple to round widths up to, or one for each size of elements, rates to choose widths by, or all channels
Align = int | Lines | Rates | Literal["all"]

# Sweeps over all coupled axes; seldom does the third change anything.
_SWEEPS = 4

# What is estimated to be faster by less than this share may not be: the table is not as exact.
_DOUBT = 0.02

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

# How many times the share of time that a width costs one runtime it must win in another.
_WORTH = 3.0

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
        return min(other.total(_gains(other.timings[0], couplings, extras)) for extras in tried)


def widened(planner: Planner, plan: StoragePlan, align: Align, options: PlanOptions) -> WiderPlan:
    """The plan with wider axes where that is wanted or faster, and the layers that it concerns.

    `plan` was made with these options. With rates, no plan is returned that they say takes longer than
    `plan` does, nor than the graph with all of its channels; where `auto` wrote adapters, none is if that is faster,
    and channels that are constant maps are computed where that is faster than to add their contribution as a map.
    """
    if align == "all":
        floor = _everything(plan, "kept, because the model with fewer channels was measured to be slower")
        return _reported(planner, plan, planner.plan(options, floor))
    if isinstance(align, Rates):
        return _fastest_plan(planner, plan, align, options)
    coupled = CoupledSlices(planner.graph, planner.facts, plan)
    extras = _rounded(_written(planner.graph, coupled.found), _multiples(planner.graph, coupled.found, align))
    reason = f"a multiple of {align}" if isinstance(align, int) else f"a multiple of {align.bytes} bytes"
    floor = _floor(coupled, plan, extras, reason, NO_FLOOR)
    return _reported(planner, plan, planner.plan(options, floor) if extras else plan)


def _reported(planner: Planner, before: StoragePlan, after: StoragePlan, speedup: float | None = None) -> WiderPlan:
    """The second plan, with the layers that are wider than in the first."""
    return WiderPlan(after, tuple(_widths(planner.graph, before, after)), speedup)


def _fastest_plan(planner: Planner, plan: StoragePlan, align: Rates, options: PlanOptions) -> WiderPlan:
    """The plan that rates say is the fastest."""
    graph = planner.graph
    network = Network(graph, planner.facts)
    runtimes = [align] if align.beside is None else [align, align.beside]
    everything = PlanSteps(network, untouched(graph))
    if not any(step.convolution for step in everything.steps):
        return WiderPlan(plan)
    wholes = [Timing(everything, rates) for rates in runtimes]
    whole = wholes[0].total()
    weights = tuple(whole / timing.total() / len(wholes) for timing in wholes)  # each as a share of all channels' time

    def choice(options: PlanOptions, floor: StorageFloor = NO_FLOOR, made: StoragePlan | None = None) -> _Choice:
        result = planner.plan(options, floor) if made is None else made
        steps = PlanSteps(network, result)
        weighed = _Weighed(tuple(Timing(steps, rates) for rates in runtimes), weights)
        return _Choice(result, options, weighed, weighed.total())

    first = choice(options, made=plan)
    found, weighed, mapped = _estimate(planner, first), first.weighed, first.timing.plan.mapped
    restored = found.coupled.restored if options.adapters == "auto" and first.timing.plan.adapters else []
    looks = []
    for maps, adapters in ((False, True), (True, False), (True, True)):  # what to do without
        if (mapped or not maps) and (restored or not adapters):
            wanted = [*(mapped if maps else ()), *(restored if adapters else ())]
            look = found.first_look(weighed.without(maps=maps, adapters=adapters), wanted)
            looks.append((not adapters, look, maps, adapters))
    estimates = [found]
    for _, look, maps, adapters in sorted(looks):
        hope = _HOPE if adapters else _HOPE_WITH_ADAPTERS
        if look < hope * min(estimate.time for estimate in estimates):
            policy = "never" if adapters else options.adapters
            estimates.append(_estimate(planner, choice(replace(options, adapters=policy, adds_maps=not maps))))
    best = min((estimate.start for estimate in estimates), key=_Choice.compared)
    for estimate in sorted(estimates, key=_Estimate.compared):
        if estimate.compared() < best.compared():  # a plan is made only where it may be the fastest
            best = min(best, choice(estimate.start.options, estimate.floor), key=_Choice.compared)
    if whole < best.time:
        words = "kept, because the model with fewer channels is estimated to be slower"
        best = choice(options, _everything(plan, words))
    if first.time <= whole and not _is_worth_it(graph, first, best):
        return WiderPlan(plan)
    return _reported(planner, plan, best.plan, first.compared() / best.compared())


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


def _estimate(planner: Planner, start: _Choice) -> _Estimate:
    """The plan with the widths that are fastest for it."""
    coupled = CoupledSlices(planner.graph, planner.facts, start.plan)
    couplings = dict(enumerate(coupled.found))
    extras = _fastest(start.weighed.timings, couplings)
    if not extras:
        return _Estimate(start, coupled, extras, start.plan.floor, start.time)
    floor = _floor(coupled, start.plan, extras, "which runs faster than {}", start.plan.floor)
    return _Estimate(start, coupled, extras, floor, start.weighed.total(_gains(start.timing, couplings, extras)))


def _written(graph: gs.Graph, couplings: list[Coupling]) -> dict[int, Coupling]:
    """Those with slices that some layer writes, by their numbers."""
    layers = {
        (node.outputs[0].name, axis % len(node.outputs[0].shape))
        for node in graph.nodes
        if (axis := rules(node).width_axis) is not None and node.outputs[0].shape
    }
    return {number: coupling for number, coupling in enumerate(couplings) if layers & coupling.slices_per_class.keys()}


def _multiples(graph: gs.Graph, couplings: list[Coupling], align: int | Lines) -> dict[int, int]:
    """What the width of each coupling is rounded up to a multiple of: by the smallest elements that are stored so."""
    if isinstance(align, int):
        return dict.fromkeys(range(len(couplings)), align)
    sizes = {name: numpy_dtype(tensor).itemsize for name, tensor in graph.tensors().items() if tensor.dtype}
    elements = ([sizes[name] for name, _ in coupling.slices_per_class if sizes.get(name)] for coupling in couplings)
    return {number: align.multiple(min(found, default=4)) for number, found in enumerate(elements)}


def _rounded(couplings: dict[int, Coupling], multiples: Mapping[int, int]) -> dict[int, int]:
    """How many more of each coupling make it a multiple, where there are as many."""
    missing = {number: -coupling.stored % multiples[number] for number, coupling in couplings.items()}
    return {number: more for number, more in missing.items() if 0 < more <= couplings[number].spare.size}


# -- the fastest -----------------------------------------------------------------------------------------------------


class _Region:
    """The steps that the width of a coupling matters to; what they take is remembered by all that it depends on."""

    def __init__(self, timing: Timing, steps: Sequence[int]) -> None:
        self.steps = steps
        self._timing = timing
        inside = [timing.plan.steps[index] for index in steps]
        slots = {port.slot for step in inside for port in (*step.inputs, step.output)}
        before = {port.writer for step in inside for port in step.inputs}.difference(steps)
        self._widths, self._operands = picked(sorted(slots)), picked(sorted(before))
        self._known: dict[tuple[object, object], float] = {}

    def time(self, gains: Gains, blocked: Blocked) -> float:
        """Nanoseconds of these steps. `blocked` says how what they read is written, and is left as it is."""
        asked = self._widths(gains), self._operands(blocked)
        if asked not in self._known:
            self._known[asked] = self._timing.of(self.steps, gains, [*blocked])
        return self._known[asked]


def _fastest(timings: Sequence[Timing], couplings: Mapping[int, Coupling]) -> dict[int, int]:
    """How many more of each coupling to store, by its number: what is fastest in the first of the runtimes.

    Each wins `_WORTH` times what it costs the others.
    """
    timing, *others = timings
    at: dict[int, set[int]] = {}
    for index, step in enumerate(timing.plan.steps):
        for port in (*step.inputs, step.output):
            at.setdefault(port.slot, set()).add(index)
    reached = _reached(timing)
    regions: dict[int, _Region] = {}
    for number, coupling in couplings.items():
        touched = {index for slot, _ in _slots(timing, coupling) for index in at[slot]}
        touched |= {later for index in touched for later in reached[index]}
        if coupling.spare.size and any(timing.plan.steps[index].convolution for index in touched):
            regions[number] = _Region(timing, sorted(touched))
    found = {number: couplings[number] for number in regions}
    whole = _whole_channel_blocks(timing, found)
    sets = {number: set(region.steps) for number, region in regions.items()}
    near = {a: {b for b in sets if b != a and not sets[a].isdisjoint(sets[b])} for a in sets}
    starts = [{}, _rounded(found, whole)]
    tried = [_improved(timing, found, regions, near, whole, start) for start in starts]
    best = min(tried, key=lambda extras: timing.total(_gains(timing, couplings, extras)))
    extras = {number: more for number, more in best.items() if more}
    if not others:
        return extras
    won, *lost = (_won(each, couplings, regions, extras) for each in timings)
    return {number: more for number, more in extras.items() if won[number] + _WORTH * sum(e[number] for e in lost) > 0}


def _won(
    timing: Timing, couplings: Mapping[int, Coupling], regions: Mapping[int, _Region], extras: Mapping[int, int]
) -> dict[int, float]:
    """What each of them wins in a runtime, beside all the others: as a share of the time with all."""
    gains, blocked = _gains(timing, couplings, extras), timing.unblocked()
    time = timing.of(range(len(timing.plan.steps)), gains, blocked)
    found = {}
    for number, more in extras.items():
        without = [*gains]
        for slot, times in _slots(timing, couplings[number]):
            without[slot] -= more * times
        before, after = (timing.of(regions[number].steps, each, [*blocked]) for each in (without, gains))
        found[number] = (before - after) / time
    return found


def _whole_channel_blocks(timing: Timing, couplings: dict[int, Coupling]) -> dict[int, int]:
    """What the width of each coupling is to divide by: a channel block, or one for each group of convolutions."""
    groups = [1] * len(timing.plan.slots)
    for step in timing.plan.steps:
        if step.convolution is not None and step.convolution.groups > 1 and not step.convolution.depthwise:
            for port in (step.inputs[0], step.output):
                groups[port.slot] = max(groups[port.slot], step.convolution.groups)
    block = timing.rates.channels_per_block
    return {n: block * max([1, *(groups[slot] for slot, _ in _slots(timing, c))]) for n, c in couplings.items()}


def _reached(timing: Timing) -> list[set[int]]:
    """For each step the later ones that its output comes to before a convolution has read it, these among them."""
    reached: list[set[int]] = [set() for _ in timing.plan.steps]
    for index in range(len(timing.plan.steps) - 1, -1, -1):
        step = timing.plan.steps[index]
        further = reached[index] if step.convolution is None else set()
        for port in step.inputs:
            if port.writer >= 0:
                reached[port.writer] |= {index, *further}
    return reached


def _improved(
    timing: Timing,
    couplings: dict[int, Coupling],
    regions: Mapping[int, _Region],
    near: dict[int, set[int]],
    whole: Mapping[int, int],
    start: dict[int, int],
) -> dict[int, int]:
    """The numbers of spare slices after each was set to what takes the shortest time, until none changes."""
    extras = dict.fromkeys(couplings, 0) | start
    gains = _gains(timing, couplings, extras)
    slots = {number: _slots(timing, coupling) for number, coupling in couplings.items()}
    blocked = timing.unblocked()
    timing.of(range(len(timing.plan.steps)), gains, blocked)

    def put(number: int, more: int) -> None:
        for slot, times in slots[number]:
            gains[slot] += (more - extras[number]) * times
        extras[number] = more

    waiting = set(couplings)
    for _ in range(_SWEEPS):
        now, waiting = waiting, set()
        for number in sorted(now):
            before, times = extras[number], {}
            for more in _candidates(couplings[number], before, timing.rates, whole[number]):
                put(number, more)
                doubt = 1 + _DOUBT if more else 1
                times[more] = regions[number].time(gains, blocked) * doubt
            best = min(times, key=lambda more: (times[more], more))
            put(number, best)
            if best != before:
                timing.of(regions[number].steps, gains, blocked)
                waiting |= near[number]
    return extras


def _candidates(coupling: Coupling, now: int, rates: Rates, whole: int) -> list[int]:
    """Numbers of spare slices worth trying: none, one, and those that make the width round."""
    multiples = rates.channel_multiple, rates.channels_per_block, whole
    tried = {0, 1, now, *(-coupling.stored % multiple for multiple in multiples)}
    return sorted(more for more in tried if more <= coupling.spare.size)


def _gains(timing: Timing, couplings: Mapping[int, Coupling], extras: Mapping[int, int]) -> list[int]:
    """How many more slices each axis stores with so many more of each coupling, as `Timing` asks for it."""
    gains = [0] * len(timing.plan.slots)
    for number, more in extras.items():
        for slot, times in _slots(timing, couplings[number]):
            gains[slot] += more * times
    return gains


def _slots(timing: Timing, coupling: Coupling) -> list[tuple[int, int]]:
    """The axes that the coupling stores slices of and an estimate depends on, by their slots, and how many for each."""
    return [
        (timing.plan.slots[key], times) for key, times in coupling.slices_per_class.items() if key in timing.plan.slots
    ]


# -- what is stored --------------------------------------------------------------------------------------------------


def _floor(
    coupled: CoupledSlices, plan: StoragePlan, extras: dict[int, int], reason: str, base: StorageFloor
) -> StorageFloor:
    """So many spare slices of each coupling, with the reason for each axis, beside what is stored in any case."""
    floor = StorageFloor(dict(base.stored), set(base.intact))
    for number, more in extras.items():
        for key, mask in coupled.slices(coupled.found[number], more):
            floor.wider[key] = floor.wider.get(key, np.zeros(mask.size, bool)) | mask
    for key, mask in floor.wider.items():
        floor.stored[key] = floor.stored.get(key, np.zeros(mask.size, bool)) | mask
        before = int(plan.stored[key].sum())
        floor.why[key] = f"kept for a channel count of {before + int(mask.sum())}, {reason.format(before)}"
    return floor


def _everything(plan: StoragePlan, why: str) -> StorageFloor:
    """All slices of all axes."""
    wider = {key: np.ones(mask.size, bool) for key, mask in plan.stored.items() if key[0] not in plan.absent}
    return StorageFloor(dict(wider), wider=wider, why=dict.fromkeys(wider, why))


def _widths(graph: gs.Graph, before: StoragePlan, after: StoragePlan) -> Iterator[Width]:
    """The layers that are wider in the second plan."""
    for index, node in enumerate(graph.nodes):
        axis = rules(node).width_axis
        if axis is None or index not in after.computed or not node.outputs[0].shape:
            continue
        key = node.outputs[0].name, axis % len(node.outputs[0].shape)
        was = before.stored.get(key)
        if was is None:
            continue
        kept = int(after.stays(*key, was.size).sum())
        if kept > was.sum():
            reason = after.floor.why.get(
                key, "computed, because that is faster than restoring them where they are needed"
            )
            yield Width(describe(node), str(node.op), int(was.sum()), kept, was.size, reason)
