"""The order in which groups of channels go: what saves most FLOPs, or time, for the least harm to the outputs first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskc.pruning.choice.surgeon import Layer
from maskc.pruning.layers.contractions import Index
from maskc.pruning.layers.network import Mask, Network
from passes.targets.widths.rates import Rates

_STEP = 0.03  # of the FLOPs, that go at a time
_LEAST = 0.1  # of the groups of a place that stay
# Sensitivities are measured without a refit, which mends most where most is broken: on a text recogniser (PP-OCRv4, 64
# images, half the FLOPs) powers of 0, 1/4, 1/2 and 1 left 0.92, 0.945, 0.875 and 0.78 of 200 words right.
_POWER = 0.25


class Removal:
    """Groups that go one after the other, in steps, after each of which layers have made up for what went.

    order: the groups that went so far. ends: how many had gone after each of the units that they went in. With rates,
    FLOPs are nanoseconds by these, and a unit is a block of channels, as in HALP (Shen et al. 2022, arXiv 2110.10811):
    kernels take as long for one that is partly filled.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer],
        sensitivities: NDArray[np.float64],
        rates: Rates | None = None,
    ) -> None:
        self.order: list[int] = []
        self.ends: list[int] = []
        self._saved: list[float] = []  # by each
        self._network, self._layers, self._weights = network, layers, sensitivities**_POWER
        self._rates = rates
        self._gone = np.zeros(len(network.fixed), bool)
        read = np.zeros(len(self._gone), bool)
        for layer in layers:
            read[layer.labels] = True
        self._free = read & ~network.fixed
        self._costs = network.cost_model(self._gone, rates)
        self._unseen = _unseen(network, self._costs.savings())
        if rates is not None and self._unseen.any():
            self._unseen *= self._costs.flops / network.flops(self._gone)

    @property
    def flops(self) -> int:
        """What the cost model says is left, without what it does not see."""
        return self._costs.flops - round(float(self._unseen[self._gone].sum()))

    def gone(self, count: int | None = None) -> Mask:
        """The groups that went first, so many, or all, as bool [groups]."""
        found = np.zeros(len(self._gone), bool)
        found[self.order[:count]] = True
        return found

    def down_to(self, flops: float) -> bool:
        """Go on until the cost model says that no more FLOPs are left; whether it came to that."""
        while self.flops > flops:
            units = self._next(max(flops, min(self.flops * (1 - _STEP), self.flops - 1)))
            if not units:
                return False
            batch = [group for unit, _ in units for group in unit]
            for unit, saved in units:
                self.order += unit
                self.ends.append(len(self.order))
                self._saved.append(saved)
            self._gone[batch] = True
            self._costs = self._costs.without(batch)
            for layer in self._layers:
                layer.without(batch)
        return True

    def smallest_units(self, gone: Mask) -> list[list[int]]:
        """The units of groups that are gone, those that saved least first, and of equal ones the last that went."""
        units = zip(self._saved, [0, *self.ends], self.ends, strict=False)
        by_saved = sorted(units, key=lambda unit: (unit[0], -unit[1]))
        return [self.order[begin:end] for _, begin, end in by_saved if gone[self.order[begin:end]].all()]

    def _next(self, flops: float) -> list[tuple[list[int], float]]:
        """The groups to go next, in units, and what each saves."""
        errors = np.zeros(len(self._gone))
        for layer, weight in zip(self._layers, self._weights, strict=True):
            errors += weight * layer.errors(len(errors))
        saved = self._costs.savings() + np.where(self._gone, 0, self._unseen)
        may = np.flatnonzero(self._free & ~self._gone & (saved > 0))
        room = _Room(self._network, self._gone)
        order = may[np.argsort(errors[may] / saved[may], kind="stable")].tolist()
        units = [[group] for group in order]
        if self._rates is not None:
            units = room.blocks(order, self._rates, self._costs.channels)
            units.sort(key=lambda unit: errors[unit].sum() / saved[unit].sum())
        taken: list[tuple[list[int], float]] = []
        left = float(self.flops)
        for unit in units:
            if left <= flops:
                break
            if room.take(unit):
                taken.append((unit, float(saved[unit].sum())))
                left -= taken[-1][1]
        return taken


def _unseen(network: Network, seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """What groups save in the mean where the cost model sees no saving, as where only several together save any.

    float64 [groups]: of each mask none of whose groups saves anything, what every second of them saves, each its part:
    then what is left is as scattered as pruning leaves it.
    """
    found = np.zeros(len(seen))
    before = network.flops(np.zeros(len(seen), bool))
    for groups in map(np.unique, network.groups.values()):
        free = groups[~network.fixed[groups]]
        if len(free) > 1 and not seen[free].any() and not found[free].any():
            half = np.zeros(len(seen), bool)
            half[free[::2]] = True
            found[free] = max(0, before - network.flops(half)) / len(free[::2])
    return found


class _Room:
    """How many groups each place can still lose."""

    def __init__(self, network: Network, gone: Mask) -> None:
        self._places: dict[int, list[str]] = {}
        self._left: dict[str, int] = {}
        self._width: dict[str, int] = {}
        for name, groups in network.groups.items():
            distinct = np.unique(groups)
            for group in distinct.tolist():
                self._places.setdefault(group, []).append(name)
            stay = max(1, round(_LEAST * len(distinct)))
            self._width[name] = int((~gone[distinct]).sum())
            self._left[name] = self._width[name] - stay

    def blocks(self, groups: list[int], rates: Rates, channels: Index) -> list[list[int]]:
        """These groups, of so many channels each, in units that leave whole channel blocks in each place."""
        alike: dict[tuple[str, ...], list[int]] = {}
        for group in groups:
            alike.setdefault(tuple(self._places[group]), []).append(group)
        found = []
        for names, members in alike.items():
            width = self._width[names[0]]
            while members:
                step = rates.groups_at_once(width, int(channels[members[0]]))
                size = width % step or step
                found.append(members[:size])
                members, width = members[size:], width - size
        return found

    def take(self, unit: list[int]) -> bool:
        """Whether groups of the same places can go, which are then counted."""
        places = self._places[unit[0]]
        if any(self._left[name] < len(unit) for name in places):
            return False
        for name in places:
            self._left[name] -= len(unit)
        return True
