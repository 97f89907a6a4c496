"""Layers that compute more channels than they must, and the plan in which they do."""

from __future__ import annotations

from dataclasses import dataclass

from passes.rewriting.storage_plan import StoragePlan


@dataclass(frozen=True)
class Width:
    """A layer that computes more channels than it must: `kept` out of `total`, where `live` would do, and why."""

    node: str
    op: str
    live: int
    kept: int
    total: int
    reason: str


@dataclass(frozen=True)
class WiderPlan:
    """A plan with channel counts that kernels are faster with, and the layers that it concerns.

    speedup: the estimated time of the plan with the fewest channels over that of this one; None without an estimate.
    """

    plan: StoragePlan
    widths: tuple[Width, ...] = ()
    speedup: float | None = None
