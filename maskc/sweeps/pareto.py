"""Pareto dominance: which points of a sweep no other is better than."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from maskc.sweeps.record import SOURCE, Origin, Point


@dataclass(frozen=True)
class _Worth:
    """A point by what counts, less being better; only points of one `group` are compared.

    `cost` is its time, or its FLOPs, and lies between `least` and `most` in half of the runs.
    """

    name: str
    group: str
    cost: float
    loss: float
    flops: float
    least: float
    most: float

    def beats(self, other: _Worth) -> bool:
        no_worse = self.cost <= other.cost and self.loss <= other.loss
        # times that may be the same are no reason to prefer more FLOPs
        noise = other.flops < self.flops and self.most >= other.least
        differs = (self.cost, self.loss) != (other.cost, other.loss)
        return self.group == other.group and no_worse and differs and not (noise and self.loss == other.loss)


def is_useless(point: Point, source: Origin, lower_is_better: bool) -> bool:
    """Whether a point has no quality left, where more is better and the source has some."""
    rated = point.quality is not None and source.quality is not None and not lower_is_better
    return rated and (point.quality or 0.0) <= 0.0 < (source.quality or 0.0)


def marked(points: Sequence[Point], source: Origin, lower_is_better: bool) -> tuple[Point, ...]:
    """The points with the name of one that dominates each, the best of them, as far as there is one.

    With a quality for all that were compiled, a point is dominated by one (or by the source) that is no worse and no
    slower, and better in one of both. Without, points of one level are compared, which are the same function: by time
    alone. Where nothing was measured, FLOPs stand for time. A point with fewer FLOPs is not dominated by one as good
    whose time may be the same, by the quartiles of both.
    """
    good = [point for point in points if point.figures is not None]
    rated = bool(good) and all(point.quality is not None for point in good)
    timed = bool(good) and all(point.time is not None for point in good)
    worth = {}
    for point in good:
        cost = (point.time if timed else point.share) or 0.0
        loss = (point.quality or 0.0) * (1 if lower_is_better else -1) if rated else 0.0
        quartiles = point.latency.after if timed and point.latency is not None else (1.0, 1.0, 1.0)
        spread = (cost * quartiles[0] / quartiles[1], cost * quartiles[2] / quartiles[1])
        worth[point.name] = _Worth(point.name, "" if rated else point.level, cost, loss, point.share or 0.0, *spread)
    others = list(worth.values())
    if rated and source.quality is not None:
        others.append(_Worth(SOURCE, "", 1.0, source.quality * (1 if lower_is_better else -1), 1.0, 1.0, 1.0))
    found = []
    for point in points:
        mine = worth.get(point.name)
        better = [other for other in others if mine is not None and other.beats(mine)]
        best = min(better, key=lambda other: (other.loss, other.cost), default=None)
        found.append(dataclasses.replace(point, dominated_by=None if best is None else best.name))
    return tuple(found)
