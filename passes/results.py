"""What a compilation found and did, as plain values."""

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


@dataclass(frozen=True)
class MaskedAxis:
    """One axis of a tensor where channels are masked (constant whatever the input).

    `masked` and `removed` are counts of channels out of `total`; `channels` are those that are masked.
    """

    tensor: str
    axis: int
    total: int
    masked: int
    removed: int
    channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Held:
    """Masked channels that are still computed, the consumer that needs them, and why.

    `written_by` is the operator or input that gives the consumer's other operand these channels, if that is the reason;
    `advice` says what would remove them. `aligned`: they stay for a width that runs faster, or was asked for.
    """

    tensor: str
    axis: int
    channels: tuple[int, ...]
    node: str
    op: str
    reason: str
    written_by: str = ""
    advice: str = ""
    aligned: bool = False


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
class Report:
    """What `passes.shrink` did: costs before and after, masked axes, what stayed and why.

    `widths` are the layers with channels that stay for a rounder width. `seconds` is the time of each pass. `sizes` are
    the numbers of nodes and of elements of initializers: first of the `source`, then after each pass that may change
    them.
    """

    before: Cost
    after: Cost
    masked: tuple[MaskedAxis, ...]
    held: tuple[Held, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    widths: tuple[Width, ...] = ()
