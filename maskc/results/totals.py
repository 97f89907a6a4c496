"""Totals of a model: FLOPs, multiply-accumulates, parameters and bytes on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from passes.sizes.cost_values import Cost, CountedAt


@dataclass(frozen=True)
class Figures:
    """FLOPs and multiply-accumulates `at` these sizes of the inputs, number of weights, and bytes on disk."""

    flops: int
    macs: int
    params: int
    bytes: int
    at: CountedAt = field(default_factory=CountedAt)

    @classmethod
    def from_cost(cls, cost: Cost, size: int) -> Figures:
        """Figures from a count of the graph and the size of its file in bytes."""
        return cls(cost.flops, cost.macs, cost.params, size, cost.at)

    def reduction_to(self, after: Figures) -> float:
        """FLOPs before over FLOPs after: 1 when neither has any, infinite when only `after` has none."""
        if after.flops == 0:
            return 1.0 if self.flops == 0 else math.inf
        return self.flops / after.flops
