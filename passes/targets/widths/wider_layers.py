"""Layers that compute more channels than they must, and the plan in which they do."""

from __future__ import annotations

from dataclasses import dataclass

from passes.rewriting.channel_facts import Facts
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
class ChannelMultiples:
    """A plan with the channel counts that a target chose, the facts that it uses, and the layers that it concerns.

    speedup: the estimated time of the plan with the fewest channels over that of this one; None without an estimate.
    """

    plan: StoragePlan
    facts: Facts
    widths: tuple[Width, ...] = ()
    speedup: float | None = None
