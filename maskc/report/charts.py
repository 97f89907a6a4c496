"""Geometry of the charts on a report page."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from maskc.results.layers import Layer
from maskc.results.measurements import Latency, OutputError
from passes.planning.masked_axes import Held, MaskedAxis, channels_by_axis

# A strip with more runs of channels than this draws shares instead; nobody could tell the runs apart.
_MOST_RUNS = 600


@dataclass(frozen=True)
class BarPair:
    """Two bars on one scale, in percent of its length, and what to say of them."""

    before: float
    after: float
    label: str = ""


def bars(before: float | None, after: float | None, largest: float, label: str = "") -> BarPair:
    """Bars for two values on a scale that ends with the largest; None is no bar."""
    before, after = (100 * (value or 0) / largest if largest else 0.0 for value in (before, after))
    return BarPair(round(before, 2), round(after, 2), label)


@dataclass(frozen=True)
class Skyline:
    """One pair of columns for each layer, in the order of the graph."""

    title: str
    unit: str
    largest: int
    columns: tuple[BarPair, ...]


def skylines(layers: Sequence[Layer]) -> tuple[Skyline, ...]:
    """FLOPs and channels over the layers; a skyline without any height is left out."""
    found = []
    for title, unit, pairs in (
        ("FLOPs by layer", "FLOPs", [(layer.flops_before, layer.flops_after) for layer in layers]),
        ("Channels by layer", "channels", [(layer.width_before or 0, layer.width_after or 0) for layer in layers]),
    ):
        largest = max((max(pair) for pair in pairs), default=0)
        columns = [
            bars(before, after, largest, f"{layer.name}: {before:,} → {after:,} {unit}")
            for layer, (before, after) in zip(layers, pairs, strict=True)
        ]
        if largest:
            found.append(Skyline(title, unit, largest, tuple(columns)))
    return tuple(found)


@dataclass(frozen=True)
class Strip:
    """The channels of one axis side by side: SVG paths over `total` by 1 of those that live, went and stayed."""

    axis: MaskedAxis
    live: int
    stayed: int
    paths: tuple[tuple[str, str], ...]


def strips(masked: Iterable[MaskedAxis], held: Iterable[Held]) -> tuple[Strip, ...]:
    """A strip for each axis with masked channels."""
    stayed = channels_by_axis(held)
    return tuple(_strip(axis, stayed.get((axis.tensor, axis.axis), set())) for axis in masked)


def _strip(axis: MaskedAxis, held: Collection[int]) -> Strip:
    masked = set(axis.channels)
    kinds = ["stayed" if c in held else "removed" if c in masked else "live" for c in range(axis.total)]
    runs = [(kind, len(list(group))) for kind, group in groupby(kinds)]
    if len(runs) > _MOST_RUNS or len(masked) != axis.masked:
        counts = {"live": axis.total - axis.masked, "removed": axis.removed, "stayed": axis.masked - axis.removed}
        runs = [(kind, count) for kind, count in counts.items() if count]
    paths: dict[str, list[str]] = {}
    start = 0
    for kind, length in runs:
        paths.setdefault(kind, []).append(f"M{start} 0h{length}v1h-{length}z")
        start += length
    drawn = tuple((kind, "".join(parts)) for kind, parts in paths.items())
    return Strip(axis, axis.total - axis.masked, axis.masked - axis.removed, drawn)


@dataclass(frozen=True)
class Bin:
    """Errors between two powers of ten: where the bar stands and how high it is, in the units of the chart."""

    x: float
    width: float
    height: float
    count: int
    label: str


@dataclass(frozen=True)
class Histogram:
    """The errors of one output by magnitude, in a chart of `WIDTH` by `HEIGHT`.

    `most` elements are in the highest bar. `allowed` is where the tolerance stands, None where it is off the scale or
    not relative; `ticks` are places and powers of ten.
    """

    output: OutputError
    equal: int
    total: int
    most: int
    bins: tuple[Bin, ...]
    allowed: float | None
    ticks: tuple[tuple[float, int], ...]

    WIDTH = 300.0
    HEIGHT = 96.0


def histogram(output: OutputError) -> Histogram | None:
    """The histogram of an output; None where no errors could be measured."""
    counted = output.histogram
    if counted is None or not output.compared:
        return None
    total = counted.equal + sum(counted.counts)
    tolerance = math.log10(output.rtol) if output.rtol > 0 else None
    if not counted.counts:
        return Histogram(output, counted.equal, total, 0, (), None, ())
    ends = [counted.start, counted.start + counted.step * len(counted.counts)]
    ends += [] if tolerance is None else [tolerance]
    low, high = math.floor(min(ends)) - 1, math.ceil(max(ends)) + 1
    unit = Histogram.WIDTH / (high - low)
    most = max(counted.counts)
    bins = []
    for i, count in enumerate(counted.counts):
        left = counted.start + i * counted.step
        label = f"{count:,} element{'s' * (count != 1)} from {10**left:.1e} to {10 ** (left + counted.step):.1e}"
        height = max(2.0, Histogram.HEIGHT * count / most) if count else 0.0
        bins.append(Bin(round((left - low) * unit, 2), round(counted.step * unit, 2), round(height, 2), count, label))
    every = max(1, math.ceil((high - low) / 7))
    ticks = tuple((round((power - low) * unit, 2), power) for power in range(low + 1, high, every))
    allowed = None if tolerance is None else round((tolerance - low) * unit, 2)
    return Histogram(output, counted.equal, total, most, tuple(bins), allowed, ticks)


@dataclass(frozen=True)
class Span:
    """The quartiles of one model's latency in milliseconds, and in percent of the chart's length."""

    label: str
    milliseconds: tuple[float, float, float]
    percent: tuple[float, ...]


def spans(latency: Latency) -> tuple[Span, ...]:
    """Both models on one scale that begins at 0."""
    end = 1.05 * max(*latency.before, *latency.after) or 1.0
    return tuple(
        Span(label, quartiles, tuple(round(100 * milliseconds / end, 2) for milliseconds in quartiles))
        for label, quartiles in (("before", latency.before), ("after", latency.after))
    )
