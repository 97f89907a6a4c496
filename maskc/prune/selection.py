"""Which groups of channels go, so that a number of FLOPs is left and the outputs suffer least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskc.prune.network import Mask, Network
from maskc.prune.surgeon import Layer

ROUNDS = 24
_LEAST = 0.1  # of the groups of a place that stay


def selected(network: Network, layers: Sequence[Layer], weights: NDArray[np.float64], target: float) -> Mask | None:
    """The groups that go, bool [groups], so that no more than `target` FLOPs are left; None where that cannot be.

    In rounds, those go first that add least to the weighted errors of the layers for each FLOP that they save; the
    layers lose them at the end of each round. `weights` [layers] are the layers' sensitivities.
    """
    gone = np.zeros(len(network.fixed), bool)
    read = np.zeros(len(gone), bool)
    for layer in layers:
        read[layer.labels] = True
    free = read & ~network.fixed
    before = network.flops(gone)
    asked = target
    for _ in range(3):
        if not _down_to(network, layers, weights, asked, gone, free, before):
            return None
        left = network.flops(gone)
        if left <= target:
            return gone
        asked -= left - target + 1
    return None


def _down_to(
    network: Network,
    layers: Sequence[Layer],
    weights: NDArray[np.float64],
    target: float,
    gone: Mask,
    free: Mask,
    before: int,
) -> bool:
    """Take groups away until the cost model says that `target` FLOPs are left; whether it came to that."""
    costs = network.cost_model(gone)
    step = (before - target) / ROUNDS
    while costs.flops > target:
        goal = max(target, costs.flops - step)
        errors = np.zeros(len(gone))
        for layer, weight in zip(layers, weights, strict=True):
            errors += weight * layer.errors(len(gone))
        saved = costs.savings()
        may = free & ~gone & (saved > 0)
        order = np.flatnonzero(may)
        order = order[np.argsort(errors[order] / saved[order], kind="stable")]
        room = _Room(network, gone)
        batch: list[int] = []
        estimate = float(costs.flops)
        for group in order.tolist():
            if not room.take(group):
                continue
            batch.append(group)
            estimate -= saved[group]
            if estimate <= goal:
                break
        if not batch:
            return False
        gone[batch] = True
        costs = costs.without(batch)
        for layer in layers:
            layer.without(batch)
    return True


class _Room:
    """How many groups each place can still lose."""

    def __init__(self, network: Network, gone: Mask) -> None:
        self._places: dict[int, list[str]] = {}
        self._left: dict[str, int] = {}
        for name, groups in network.groups.items():
            distinct = np.unique(groups)
            for group in distinct.tolist():
                self._places.setdefault(group, []).append(name)
            stay = max(1, round(_LEAST * len(distinct)))
            self._left[name] = int((~gone[distinct]).sum()) - stay

    def take(self, group: int) -> bool:
        """Whether the group can go, which is then counted."""
        places = self._places[group]
        if any(self._left[name] < 1 for name in places):
            return False
        for name in places:
            self._left[name] -= 1
        return True
