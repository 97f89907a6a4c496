"""What the order of passes asks of the runtime that a model is compiled for: a folder beside this file for each."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Protocol

import onnx_graphsurgeon as gs

from passes.planning.planner import PlanOptions
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


class Target(Protocol):
    """A runtime: what it fuses, which widths and forms it is fast with, and what it computes wrongly."""

    def fused_nodes(self, graph: gs.Graph) -> Set[int]:
        """The ids of all nodes that become one operator together with others, so that no rewrite takes these apart."""

    def choose_channel_multiples(
        self, graph: gs.Graph, facts: Facts, plan: StoragePlan, options: PlanOptions
    ) -> ChannelMultiples:
        """A plan that stores more channels where kernels for rounder widths are faster."""

    def write_fast_forms(self, graph: gs.Graph, limit: int, *, nested: bool) -> None:
        """Write a compiled graph in forms that run faster, as far as it does not come to more FLOPs than `limit`.

        nested: whether it is a subgraph of control flow.
        """

    def faults(self, graph: gs.Graph) -> Collection[str]:
        """Names of tensors of a source that this runtime computes wrongly."""

    def avoid_faults(self, graph: gs.Graph, known: Collection[str], *, nested: bool) -> None:
        """Write a compiled graph so that the runtime computes nothing wrongly, but for the tensors in `known`.

        nested: as above.
        """
