"""Points of a sweep in a chart: the places of everything in it, for the template to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["source", "best", "dominated"]


@dataclass(frozen=True)
class Dot:
    """One point: its place, in the units of the axes or of the chart, its number in the table, its kind and label."""

    x: float
    y: float
    number: str
    kind: Kind
    label: str


@dataclass(frozen=True)
class Scatter:
    """A chart of `WIDTH` by `HEIGHT`; ticks are places and what stands there, `line` goes through the best points."""

    title: str
    x_label: str
    y_label: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    line: str

    WIDTH = 480.0
    HEIGHT = 300.0


def scatter(title: str, x_label: str, y_label: str, items: Sequence[Dot], *, from_zero: bool = False) -> Scatter:
    """A chart of these points; the x axis begins at 0, and the y axis does if it is to."""
    across = _Axis.over([0.0, *(item.x for item in items)], Scatter.WIDTH)
    up = _Axis.over([*([0.0] if from_zero else []), *(item.y for item in items)], Scatter.HEIGHT)
    dots = tuple(
        replace(item, x=across.at(item.x), y=round(Scatter.HEIGHT - up.at(item.y), 1))
        for item in sorted(items, key=lambda item: item.kind != "dominated")  # what matters lies on top
    )
    best = sorted((dot for dot in dots if dot.kind == "best"), key=lambda dot: (dot.x, -dot.y))
    return Scatter(
        title,
        x_label,
        y_label,
        dots,
        across.ticks(),
        tuple((round(Scatter.HEIGHT - place, 1), text) for place, text in up.ticks()),
        " ".join(f"{dot.x},{dot.y}" for dot in best) if len(best) > 1 else "",
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    step: float
    length: float

    @classmethod
    def over(cls, values: Sequence[float], length: float) -> _Axis:
        """From a round number below all values to one above, in about five steps of 1, 2 or 5 times a power of ten."""
        low, high = min(values), max(values)
        spread = high - low or abs(high) or 1.0
        power = 10.0 ** math.floor(math.log10(spread / 4))
        step = next(power * k for k in (1, 2, 5, 10) if spread / (power * k) <= 5)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(first * step, max(last, first + 1) * step, step, length)

    def at(self, value: float) -> float:
        return round(self.length * (value - self.low) / (self.high - self.low), 1)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        count = round((self.high - self.low) / self.step)
        values = (self.low + self.step * k for k in range(count + 1))
        return tuple((self.at(value), f"{round(value, 12):g}") for value in values)
