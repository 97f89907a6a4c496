"""Table and page of a sweep, with scatter charts of the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from rich.text import Text

from maskc.pruning.sweeps.pareto import is_useless
from maskc.pruning.sweeps.record import SOURCE, Point, Record
from maskc.report.terminal import NARROW, show_sizes, table_of_names
from maskc.report.visible_console import VisibleConsole
from maskc.report.wording import brief, counted_at, size
from maskc.runtime.session import place

_NEAR = 1.01  # of a target, what is no more than asked for

Kind = Literal["source", "best", "dominated"]


def show(sweep: Record, out: VisibleConsole) -> None:
    """The source and all points with what was found of them, then where it all is."""
    timed, rated, wide = any(point.latency for point in sweep.points), sweep.measure is not None, out.width >= NARROW

    def row(counts: list[str], times: list[str], quality: str, file: str) -> list[str]:
        return [*counts, *times * timed, *[quality] * rated, *[file] * wide]

    titles = [*row(["FLOPs", "of source"], ["ms", "of source"], "quality", "file"), ""]
    figures, source_times = sweep.source.figures, [f"{source_ms(sweep):.3g}", "1.000"] if timed else []
    first = row([brief(figures.flops), "1.000"], source_times, _number(sweep.source.quality), size(figures.bytes))
    rows: list[list[str | Text]] = [[*first, ""]]
    for point in sweep.points:
        counts, times, file = ["-", "-"], ["-", "-"], "-"
        if point.figures is not None:
            counts, file = [brief(point.figures.flops), f"{point.share:.3f}"], size(point.figures.bytes)
        if point.latency is not None:
            times = [f"{point.latency.after[1]:.3g}", f"{point.time:.3f}"]
        words, kind = verdict(point, sweep)
        told = Text(words, style={"good": "green", "bad": "red", "open": "dim"}[kind])
        rows.append([*row(counts, times, _number(point.quality), file), told])
    digits = len(str(len(sweep.points)))
    names = [f"{number:>{digits}}  {point.name}" for number, point in enumerate(sweep.points, 1)]
    indent = " " * (digits + 2)
    show_sizes(out, figures.at)
    out.print(table_of_names(f"{indent}Candidate", [indent + SOURCE, *names], titles, rows, out.width, left=("",)))
    for note in notes(sweep):
        out.print(f"Note: {note}", style="yellow", soft_wrap=True)
    for point in sweep.points:
        for warning in point.warnings:
            out.print(f"Note: {point.name}: {warning}", style="yellow", soft_wrap=True)


def notes(sweep: Record) -> list[str]:
    """What a reader of the figures has to know."""
    return [note for note in (missing(sweep), above(sweep)) if note]


def missing(sweep: Record) -> str:
    """What a sweep does not compare: no other function than the source, or not the quality of those; "" if it does."""
    if all(level.masks is None and level.model == sweep.source.onnx for level in sweep.levels):
        if any(level.error is not None for level in sweep.levels):
            return ""  # which is said where it happens
        if any(level.target is not None for level in sweep.levels):
            return "Nothing more is pruned. With its own masks the model has no more FLOPs than the targets leave."
        return "Nothing is pruned. The model is the only sparsity level; --targets 0.5,0.25 or --masks makes others."
    if sweep.measure is None:
        told = "Quality was not measured. Pruned candidates compute other outputs than the source; "
        told += "--quality rates them."
        by_magnitude = any(level.masks is not None and level.target is not None for level in sweep.levels)
        return f"{told} Masks by magnitude harm most models; --data prunes by inputs." if by_magnitude else told
    return ""


def above(sweep: Record) -> str:
    """Which candidates have more FLOPs than was asked for, and why; "" if there are none."""
    targets = {level.name: level.target for level in sweep.levels}
    shares = [(point, point.share, targets.get(point.level)) for point in sweep.points]
    more = [point.name for point, share, target in shares if share and target and share > _NEAR * target]
    have = f"{', '.join(more)} {'has' if len(more) == 1 else 'have'} more FLOPs than asked for"
    return f"{have}: channels are kept where that is faster. With --align none they go." if more else ""


def source_ms(sweep: Record) -> float:
    """The median time of the source, in milliseconds, among those that it took in turns with each candidate."""
    return median(point.latency.before[1] for point in sweep.points if point.latency)


def _twin(point: Point, sweep: Record) -> int | None:
    """The number of an earlier candidate that is the same file."""
    files = [other.sha256 for other in sweep.points[: sweep.points.index(point)]]
    return files.index(point.sha256) + 1 if point.sha256 is not None and point.sha256 in files else None


def verdict(point: Point, sweep: Record) -> tuple[str, str]:
    """The verdict on a point, in words, and its kind: `good`, `bad` or `open`."""
    if point.error is not None:
        return "failed", "bad"
    unsure = [] if point.verified else ["not verified"]
    if (twin := _twin(point, sweep)) is not None:
        return f"same model as {twin}", "open"
    if point.dominated_by is not None:
        numbers = {other.name: f"{number}" for number, other in enumerate(sweep.points, 1)}
        return ", ".join([f"dominated by {numbers.get(point.dominated_by, 'the source')}", *unsure]), "open"
    if is_useless(point, sweep.source, sweep.lower_is_better):
        return ", ".join(["no quality left", *unsure]), "open"
    compared = sweep.measure is not None or sum(other.level == point.level for other in sweep.points) > 1
    return ", ".join([*(["best"] if compared else []), *unsure]), "good"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def page(sweep: Record) -> str:
    """The whole page as text; like that of a report it needs nothing else."""
    from maskc.report.page import environment, stylesheet

    return (
        environment()
        .get_template("sweep.html.j2")
        .render(
            sweep=sweep,
            title=Path(sweep.source.model).name,
            style=stylesheet(),
            charts=list(charts(sweep)),
            counted_at=counted_at(sweep.source.figures.at),
            verdict=lambda point: verdict(point, sweep),
            number=_number,
            missing=" ".join(notes(sweep)),
            source_ms=source_ms(sweep) if any(point.latency for point in sweep.points) else None,
            size=size,
            place=place,
        )
    )


def charts(sweep: Record) -> Iterator[Scatter]:
    """Quality against latency and against FLOPs, and latency against FLOPs, as far as they are known."""
    good = [(number, point) for number, point in enumerate(sweep.points, 1) if point.figures is not None]

    def kind(point: Point) -> Kind:
        useless = is_useless(point, sweep.source, sweep.lower_is_better)
        beaten = useless or point.dominated_by is not None or _twin(point, sweep) is not None
        return "dominated" if beaten else "best"

    def label(point: Point) -> str:
        parts = [f"{point.share:.3f} of the FLOPs"]
        parts += [f"{point.time:.3f} of the time"] if point.time is not None else []
        parts += [f"quality {_number(point.quality)}"] if point.quality is not None else []
        return f"{point.name}: {', '.join(parts)}"

    words = {"time": "time of one run, over the source's", "share": "FLOPs, over the source's", "quality": "quality"}

    def chart(title: str, x: str, y: str) -> Iterator[Scatter]:
        source = {"time": 1.0, "share": 1.0, "quality": sweep.source.quality}
        items = [
            Dot(getattr(point, x), getattr(point, y), str(number), kind(point), label(point))
            for number, point in good
            if getattr(point, x) is not None and getattr(point, y) is not None
        ]
        first = source[x], source[y]
        if items and first[0] is not None and first[1] is not None:
            items.insert(0, Dot(first[0], first[1], SOURCE, "source", f"{SOURCE}: {sweep.source.model}"))
        if items:
            yield scatter(title, words[x], words[y], items, from_zero=y == "time")

    yield from chart("Quality against time", "time", "quality")
    yield from chart("Quality against FLOPs", "share", "quality")
    yield from chart("Time against FLOPs", "share", "time")


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
