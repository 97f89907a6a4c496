"""What a model costs, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NodeCost:
    """Cost of one node for one example. `flops` and `macs` are counts of operations.

    `width` is the number of channels that a layer writes; None for other nodes, and where it is not static. `params`
    is the number of elements of the weights that it reads, of those that no node before it counts; weights that others
    only move before it reads them among them. Of a convolution that computes several positions at once, `width` is that
    of one.
    """

    name: str
    op: str
    flops: int
    macs: int
    width: int | None = None
    params: int = 0


@dataclass(frozen=True)
class Cost:
    """Cost of a graph for one example: unknown (symbolic) dimensions count as 1.

    `params` is the number of elements in the floating-point (or quantised) weights of the graph.
    """

    flops: int
    macs: int
    params: int
    nodes: tuple[NodeCost, ...] = field(default=(), repr=False)
