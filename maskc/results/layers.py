"""Layers of two models in pairs, aligned by name, order and similarity."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from passes.sizes.cost_values import Cost, NodeCost

Pair = tuple[int | None, int | None]


@dataclass(frozen=True)
class Layer:
    """A node that multiplies and accumulates: the channels that it reads and writes, its FLOPs and weights.

    `reads` are channels of its first input, and widths those of its output. They are None where the node is not there
    or they are not of static number; FLOPs and parameters are 0 where it is not there. `name` is that of the node
    before, or after where there is none before; `name_after` and `op_after` are set where they are others. `only` says
    where the node is, if it is not in both.
    """

    name: str
    op: str
    width_before: int | None
    width_after: int | None
    flops_before: int
    flops_after: int
    params_before: int = 0
    params_after: int = 0
    name_after: str | None = None
    op_after: str | None = None
    only: Literal["before", "after"] | None = None
    reads_before: int | None = None
    reads_after: int | None = None

    @property
    def changed(self) -> bool:
        """Whether anything but its name has changed."""
        before = (self.width_before, self.flops_before, self.params_before)
        after = (self.width_after, self.flops_after, self.params_after)
        return before != after or self.op_after is not None or self.only is not None


def layers(before: Cost, after: Cost) -> tuple[Layer, ...]:
    """The layers of both counts, in the order of `before`, those that only `after` has where they stand there.

    Layers of one name are one layer. The others, as exporters name things differently, are matched between the same
    neighbours in the order of the graphs, as many as can be: one operator with one of its kind, or with another that
    multiplies as often, and where there is a choice those that are most alike.
    """
    old, new = ([node for node in cost.nodes if node.macs] for cost in (before, after))
    return tuple(
        _layer(None if i is None else old[i], None if j is None else new[j]) for i, j in _ordered(_matched(old, new))
    )


def _layer(old: NodeCost | None, new: NodeCost | None) -> Layer:
    first = old or new
    assert first is not None
    return Layer(
        name=first.name,
        op=first.op,
        width_before=old.width if old else None,
        width_after=new.width if new else None,
        flops_before=old.flops if old else 0,
        flops_after=new.flops if new else 0,
        params_before=old.params if old else 0,
        params_after=new.params if new else 0,
        name_after=new.name if new and new.name != first.name else None,
        op_after=new.op if new and new.op != first.op else None,
        only="after" if old is None else "before" if new is None else None,
        reads_before=old.reads if old else None,
        reads_after=new.reads if new else None,
    )


def _matched(old: Sequence[NodeCost], new: Sequence[NodeCost]) -> list[Pair]:
    """Pairs of indices, in no order; each index once, alone where nothing matches it."""
    names = [Counter(node.name for node in side) for side in (old, new)]
    places = {node.name: j for j, node in enumerate(new)}
    partner = {
        i: places[node.name] for i, node in enumerate(old) if names[0][node.name] == names[1].get(node.name) == 1
    }
    back = {j: i for i, j in partner.items()}
    pairs: list[Pair] = list(partner.items())
    # What has no partner by name is looked for after the same one that has.
    gaps: dict[int, tuple[list[int], list[int]]] = {}
    for side, (nodes, anchor) in enumerate(((old, {i: i for i in partner}), (new, back))):
        place = -1
        for index in range(len(nodes)):
            if index in anchor:
                place = anchor[index]
            else:
                gaps.setdefault(place, ([], []))[side].append(index)
    for left, right in gaps.values():
        found = _aligned([old[i] for i in left], [new[j] for j in right])
        pairs += [(left[i] if i is not None else None, right[j] if j is not None else None) for i, j in found]
    return pairs


def _aligned(old: Sequence[NodeCost], new: Sequence[NodeCost]) -> list[Pair]:
    """The alignment that keeps the order of both and matches as much as can be, the more alike the better.

    Source: S. B. Needleman and C. D. Wunsch, "A general method applicable to the search for similarities in the amino
    acid sequence of two proteins", J. Mol. Biol. 48 (1970), with gaps that cost nothing.
    """
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        row, below = best[i], best[i + 1]
        for j in range(len(new) - 1, -1, -1):
            match = _likeness(old[i], new[j])
            row[j] = max(below[j], row[j + 1], match and match + below[j + 1])
    pairs: list[Pair] = []
    i = j = 0
    while i < len(old) and j < len(new):
        match = _likeness(old[i], new[j])
        if match and best[i][j] == match + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return [*pairs, *((k, None) for k in range(i, len(old))), *((None, k) for k in range(j, len(new)))]


def _likeness(old: NodeCost, new: NodeCost) -> float:
    """0 for layers that cannot be the same one; otherwise from 100 to 101, so that many count more than alike ones."""
    if old.op != new.op and old.macs != new.macs:
        return 0.0
    figures = ((old.flops, new.flops), (old.params, new.params), (old.width or 0, new.width or 0))
    alike = sum(min(pair) / max(pair) if max(pair) else 1.0 for pair in figures) / len(figures)
    return 100.0 + (alike + (old.op == new.op)) / 2


def _ordered(pairs: Sequence[Pair]) -> list[Pair]:
    """The order of the first side; what only the second has stands before the next layer that both have."""
    place = {j: i for i, j in pairs if i is not None and j is not None}
    stops = sorted(place.values())
    keys: dict[int, tuple[int, int]] = {}
    last = -1
    for j in sorted(j for _, j in pairs if j is not None):
        if j in place:
            last = place[j]
        else:
            stop = bisect_right(stops, last)
            keys[j] = (stops[stop] if stop < len(stops) else len(pairs), j - len(pairs))
    return sorted(pairs, key=lambda pair: keys[pair[1] or 0] if pair[0] is None else (pair[0], 0))
