"""Costs of models and nodes as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NodeCost:
    """Cost of one node. `flops` and `macs` are counts of operations.

    `width` is the number of channels that a layer writes; None for other nodes, and where it is not static; `reads` is
    that of the channels of its first input. `params`
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
    reads: int | None = None


@dataclass(frozen=True)
class CountedAt:
    """The input sizes that FLOPs were counted at.

    `sizes` are those of each input, and `open` names the ones that the model leaves open: `input[axis]` where it has no
    name for one. `unknown` is the number of nodes that work on sizes which depend on data and count as 1, and `loops`
    that of loops whose rounds follow from no size, of which one counts.
    """

    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    open: tuple[str, ...] = ()
    unknown: int = 0
    loops: int = 0


@dataclass(frozen=True)
class Cost:
    """Cost of a graph, at these sizes of its inputs.

    `params` is the number of elements in the floating-point (or quantised) weights of the graph.
    """

    flops: int
    macs: int
    params: int
    nodes: tuple[NodeCost, ...] = field(default=(), repr=False)
    at: CountedAt = field(default_factory=CountedAt)
