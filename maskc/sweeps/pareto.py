"""Pareto dominance: which points of a sweep no other is better than."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from maskc.sweeps.record import SOURCE, Origin, Point


@dataclass(frozen=True)
class _Worth:
    """A point by what counts, less being better; only points of one `group` are compared."""

    name: str
    group: str
    cost: float
    loss: float

    def beats(self, other: _Worth) -> bool:
        no_worse = self.cost <= other.cost and self.loss <= other.loss
        return self.group == other.group and no_worse and (self.cost, self.loss) != (other.cost, other.loss)


def marked(points: Sequence[Point], source: Origin, lower_is_better: bool) -> tuple[Point, ...]:
    """The points with the name of one that dominates each, the best of them, as far as there is one.

    With a quality for all that were compiled, a point is dominated by one (or by the source) that is no worse and no
    slower, and better in one of both. Without, points of one level are compared, which are the same function: by time
    alone. Where nothing was measured, FLOPs stand for time.
    """
    good = [point for point in points if point.figures is not None]
    rated = bool(good) and all(point.quality is not None for point in good)
    timed = bool(good) and all(point.time is not None for point in good)
    worth = {}
    for point in good:
        cost = (point.time if timed else point.share) or 0.0
        loss = (point.quality or 0.0) * (1 if lower_is_better else -1) if rated else 0.0
        worth[point.name] = _Worth(point.name, "" if rated else point.level, cost, loss)
    others = list(worth.values())
    if rated and source.quality is not None:
        others.append(_Worth(SOURCE, "", 1.0, source.quality * (1 if lower_is_better else -1)))
    found = []
    for point in points:
        mine = worth.get(point.name)
        better = [other for other in others if mine is not None and other.beats(mine)]
        best = min(better, key=lambda other: (other.loss, other.cost), default=None)
        found.append(dataclasses.replace(point, dominated_by=None if best is None else best.name))
    return tuple(found)
