"""A sweep as a person sees it: a table in a terminal, and a page with the frontier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskc.report.wording import brief, size
from maskc.sweeps.record import SOURCE

if TYPE_CHECKING:
    from maskc.sweeps.record import Point, Record
    from maskc.sweeps.scatter import Kind, Scatter


def show(sweep: Record, out: Console) -> None:
    """The source and all points with what was found of them, then where it all is."""
    timed = any(point.latency for point in sweep.points)
    rated = sweep.measure is not None
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("Point", overflow="fold")
    titles = ["FLOPs", "of source", *(["ms", "of source"] if timed else []), *(["quality"] if rated else []), "file"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    figures = sweep.source.figures
    cells = [brief(figures.flops), "1.000", *(["", "1.000"] if timed else [])]
    table.add_row("", SOURCE, *cells, *([_number(sweep.source.quality)] if rated else []), size(figures.bytes), "")
    for number, point in enumerate(sweep.points, 1):
        cells = ["-", "-"] if point.figures is None else [brief(point.figures.flops), f"{point.share:.3f}"]
        if timed:
            cells += ["-", "-"] if point.latency is None else [f"{point.latency.after[1]:.3g}", f"{point.time:.3f}"]
        if rated:
            cells.append(_number(point.quality))
        cells.append("-" if point.figures is None else size(point.figures.bytes))
        table.add_row(str(number), Text(point.name), *cells, _verdict(point, sweep))
    out.print(table)
    for point in sweep.points:
        for warning in point.warnings:
            out.print(f"Note: {point.name}: {warning}", style="yellow", markup=False, soft_wrap=True)


def verdict(point: Point, sweep: Record) -> tuple[str, str]:
    """What to think of a point, in words, and the kind: `good`, `bad` or `open`."""
    if point.error is not None:
        return "failed", "bad"
    unsure = [] if point.verified else ["not verified"]
    if point.dominated_by is not None:
        numbers = {other.name: f"{number}" for number, other in enumerate(sweep.points, 1)}
        return ", ".join([f"dominated by {numbers.get(point.dominated_by, 'the source')}", *unsure]), "open"
    compared = sweep.measure is not None or sum(other.level == point.level for other in sweep.points) > 1
    return ", ".join([*(["best"] if compared else []), *unsure]), "good"


def _verdict(point: Point, sweep: Record) -> Text:
    words, kind = verdict(point, sweep)
    return Text(words, style={"good": "green", "bad": "red", "open": "dim"}[kind])


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
            verdict=lambda point: verdict(point, sweep),
            number=_number,
            size=size,
        )
    )


def charts(sweep: Record) -> Iterator[Scatter]:
    """Quality against latency and against FLOPs, and latency against FLOPs, as far as they are known."""
    from maskc.sweeps.scatter import Dot, scatter

    good = [(number, point) for number, point in enumerate(sweep.points, 1) if point.figures is not None]

    def kind(point: Point) -> Kind:
        return "best" if point.dominated_by is None else "dominated"

    def label(point: Point) -> str:
        parts = [f"{point.share:.3f} of the FLOPs"]
        parts += [f"{point.time:.3f} of the time"] if point.time is not None else []
        parts += [f"quality {_number(point.quality)}"] if point.quality is not None else []
        return f"{point.name}: {', '.join(parts)}"

    def chart(title: str, x: str, y: str) -> Iterator[Scatter]:
        words = {
            "time": "time of one run, over the source's",
            "share": "FLOPs, over the source's",
            "quality": "quality",
        }
        source = {"time": 1.0, "share": 1.0, "quality": sweep.source.quality}
        items = [
            Dot(getattr(point, x), getattr(point, y), str(number), kind(point), label(point))
            for number, point in good
            if getattr(point, x) is not None and getattr(point, y) is not None
        ]
        first = source[x], source[y]
        if items and first[0] is not None and first[1] is not None:
            items.insert(0, Dot(first[0], first[1], "", "source", f"{SOURCE}: {sweep.source.model}"))
        if items:
            yield scatter(title, words[x], words[y], items, from_zero=y == "time")

    yield from chart("Quality against time", "time", "quality")
    yield from chart("Quality against FLOPs", "share", "quality")
    yield from chart("Time against FLOPs", "share", "time")
