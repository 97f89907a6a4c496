"""Search for the numbers of channels that a table of rates says to be the fastest.

The numbers are improved one after the other until nothing gets faster, once from the plan as it is and once from round
widths everywhere, as a convolution may only gain where both of its sides are round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from passes.targets.widths.coupled_slices import SliceCoupling
from passes.targets.widths.estimated_time import Timing
from passes.targets.widths.rates import Rates

# Sweeps over all coupled axes; seldom does the third change anything.
_SWEEPS = 4

# What is estimated to be faster by less than this share may not be: the table is not as exact.
_DOUBT = 0.02

# How many times the share of time that a width costs one runtime it must win in another.
_WORTH = 3.0


def fastest_widths(timings: Sequence[Timing], couplings: Mapping[int, SliceCoupling]) -> dict[int, int]:
    """How many more of each coupling to store, by its number: what is fastest in the first of the runtimes.

    Each wins `_WORTH` times what it costs the others.
    """
    timing, *others = timings
    regions = _regions(timing, couplings)
    found = {number: couplings[number] for number in regions}
    whole = _whole_channel_blocks(timing, found)
    tried = [_improved(timing, found, regions, whole, start) for start in ({}, rounded(found, whole))]
    best = min(tried, key=lambda extras: timing.total(gains_of(timing, couplings, extras)))
    extras = {number: more for number, more in best.items() if more}
    if not others:
        return extras
    won, *lost = (_won(each, couplings, regions, extras) for each in timings)
    return {number: more for number, more in extras.items() if won[number] + _WORTH * sum(e[number] for e in lost) > 0}


def rounded(couplings: Mapping[int, SliceCoupling], multiples: Mapping[int, int]) -> dict[int, int]:
    """How many more of each coupling make it a multiple, where there are as many."""
    missing = {number: -coupling.stored % multiples[number] for number, coupling in couplings.items()}
    return {number: more for number, more in missing.items() if 0 < more <= couplings[number].spare.size}


def gains_of(timing: Timing, couplings: Mapping[int, SliceCoupling], extras: Mapping[int, int]) -> list[int]:
    """How many more slices each axis stores with so many more of each coupling, as `Timing` asks for it."""
    gains = timing.no_gains()
    for number, more in extras.items():
        for slot, times in _slots(timing, couplings[number]):
            gains[slot] += more * times
    return gains


def _regions(timing: Timing, couplings: Mapping[int, SliceCoupling]) -> dict[int, list[int]]:
    """By coupling the steps that its width matters to, where there is a choice and a convolution among them."""
    at: dict[int, set[int]] = {}
    for index, step in enumerate(timing.plan.steps):
        for port in (*step.inputs, step.output):
            at.setdefault(port.slot, set()).add(index)
    reached = _reached(timing)
    regions: dict[int, list[int]] = {}
    for number, coupling in couplings.items():
        touched = {index for slot, _ in _slots(timing, coupling) for index in at[slot]}
        touched |= {later for index in touched for later in reached[index]}
        if coupling.spare.size and any(timing.plan.steps[index].convolution for index in touched):
            regions[number] = sorted(touched)
    return regions


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


def _whole_channel_blocks(timing: Timing, couplings: Mapping[int, SliceCoupling]) -> dict[int, int]:
    """What the width of each coupling is to divide by: a channel block, or one for each group of convolutions."""
    groups = [1] * len(timing.plan.slots)
    for step in timing.plan.steps:
        if step.convolution is not None and step.convolution.groups > 1 and not step.convolution.depthwise:
            for port in (step.inputs[0], step.output):
                groups[port.slot] = max(groups[port.slot], step.convolution.groups)
    block = timing.rates.channels_per_block
    return {n: block * max([1, *(groups[slot] for slot, _ in _slots(timing, c))]) for n, c in couplings.items()}


def _improved(
    timing: Timing,
    couplings: Mapping[int, SliceCoupling],
    regions: Mapping[int, Sequence[int]],
    whole: Mapping[int, int],
    start: dict[int, int],
) -> dict[int, int]:
    """The numbers of spare slices after each was set to what takes the shortest time, until none changes."""
    steps = {number: set(region) for number, region in regions.items()}
    near = {a: {b for b in steps if b != a and not steps[a].isdisjoint(steps[b])} for a in steps}
    extras = dict.fromkeys(couplings, 0) | start
    gains = gains_of(timing, couplings, extras)
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
                times[more] = timing.of(regions[number], gains, [*blocked]) * doubt
            best = min(times, key=lambda more: (times[more], more))
            put(number, best)
            if best != before:
                timing.of(regions[number], gains, blocked)
                waiting |= near[number]
    return extras


def _candidates(coupling: SliceCoupling, now: int, rates: Rates, whole: int) -> list[int]:
    """Numbers of spare slices worth trying: none, one, and those that make the width round."""
    multiples = rates.channel_multiple, rates.channels_per_block, whole
    tried = {0, 1, now, *(-coupling.stored % multiple for multiple in multiples)}
    return sorted(more for more in tried if more <= coupling.spare.size)


def _won(
    timing: Timing,
    couplings: Mapping[int, SliceCoupling],
    regions: Mapping[int, Sequence[int]],
    extras: Mapping[int, int],
) -> dict[int, float]:
    """What each of them wins in a runtime, beside all the others: as a share of the time with all."""
    gains, blocked = gains_of(timing, couplings, extras), timing.unblocked()
    time = timing.of(range(len(timing.plan.steps)), gains, blocked)
    found = {}
    for number, more in extras.items():
        without = [*gains]
        for slot, times in _slots(timing, couplings[number]):
            without[slot] -= more * times
        before, after = (timing.of(regions[number], each, [*blocked]) for each in (without, gains))
        found[number] = (before - after) / time
    return found


def _slots(timing: Timing, coupling: SliceCoupling) -> list[tuple[int, int]]:
    """The axes that the coupling stores slices of and an estimate depends on, by their slots, and how many for each."""
    return [
        (timing.plan.slots[key], times) for key, times in coupling.slices_per_class.items() if key in timing.plan.slots
    ]
