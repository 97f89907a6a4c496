"""Two counts of a model side by side, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from passes.report import Cost


@dataclass(frozen=True)
class Layer:
    """A node that multiplies and accumulates: the channels that it writes and its FLOPs, before and after.

    Widths are None where the node is not there or its channels are not of static number; FLOPs are 0 where it is not
    there.
    """

    name: str
    op: str
    width_before: int | None
    width_after: int | None
    flops_before: int
    flops_after: int


def layers(before: Cost, after: Cost) -> tuple[Layer, ...]:
    """The layers of both counts, matched by name: in the order of `before`, then those that only `after` has."""
    old, new = ({node.name: node for node in cost.nodes if node.macs} for cost in (before, after))
    found = []
    for name in {**old, **new}:
        left, right = old.get(name), new.get(name)
        node = left or right
        assert node is not None
        found.append(
            Layer(
                name,
                node.op,
                left.width if left else None,
                right.width if right else None,
                left.flops if left else 0,
                right.flops if right else 0,
            )
        )
    return tuple(found)
