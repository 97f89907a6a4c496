"""Pareto dominance among the candidates of a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from maskc.pruning.sweeps.record import SOURCE, Origin, Point


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
    file: str | None = None

    def beats(self, other: _Worth) -> bool:
        no_worse = self.cost <= other.cost and self.loss <= other.loss
        # times that may be the same are no reason to prefer more FLOPs
        noise = other.flops < self.flops and self.most >= other.least
        differs = (self.cost, self.loss) != (other.cost, other.loss)
        same = self.file is not None and self.file == other.file
        return self.group == other.group and no_worse and differs and not (same or (noise and self.loss == other.loss))


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
    sign = 1 if lower_is_better else -1
    worth = {point.name: _worth(point, sign if rated else 0, timed) for point in good}
    others = list(worth.values())
    if rated and source.quality is not None:
        others.append(_Worth(SOURCE, "", 1.0, sign * source.quality, 1.0, 1.0, 1.0))
    return tuple(
        dataclasses.replace(point, dominated_by=_best_above(worth.get(point.name), others)) for point in points
    )


def _worth(point: Point, sign: int, timed: bool) -> _Worth:
    """The objectives of a point; sign: 1 where less quality is better, -1 where more is, 0 where none was measured."""
    cost = (point.time if timed else point.share) or 0.0
    least, median, most = point.latency.after if timed and point.latency is not None else (1.0, 1.0, 1.0)
    group = "" if sign else point.level
    spread = cost * least / median, cost * most / median
    return _Worth(point.name, group, cost, sign * (point.quality or 0.0), point.share or 0.0, *spread, point.sha256)


def _best_above(mine: _Worth | None, others: Sequence[_Worth]) -> str | None:
    """The name of the best that dominates a point."""
    better = [other for other in others if mine is not None and other.beats(mine)]
    return min(better, key=lambda other: (other.loss, other.cost)).name if better else None
