"""Charts as SVG: by matplotlib, and in double logarithmic scale with the straight line of linear growth."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 430, 300  # of one panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 34, 46
# Light and dark change places where the reader's system is dark, and colours stay what they are.
DARK = "@media (prefers-color-scheme:dark){svg{filter:invert(.9) hue-rotate(180deg)}}"
STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-weight:600}.grid{stroke:#ddd}.linear{stroke:#888;"
    "stroke-dasharray:3 4;fill:none}.line{stroke:#1f6fb2;stroke-width:2;fill:none}.point{fill:#1f6fb2}"
) + DARK


def subplots(rows: int, columns: int, inches: tuple[float, float]) -> Any:
    """A figure of matplotlib and its axes, `[rows, columns]`, of which the same data make the same file."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "maskc", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=inches, squeeze=False)


def saved(figure: Any) -> str:
    """What such a figure is as SVG, dark where the reader's system is."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", facecolor="white", metadata={"Date": None})
    return drawn.getvalue().replace("<defs>", f"<style>{DARK}</style>\n <defs>", 1)


@dataclass(frozen=True)
class Panel:
    """One curve: its title, what runs along the axes, and its points (x, y), both positive."""

    title: str
    x_label: str
    y_label: str
    points: Sequence[tuple[float, float]]


def svg(panels: Sequence[Panel]) -> str:
    """The panels side by side."""
    drawn = "".join(f'<g transform="translate({i * WIDTH} 0)">{_panel(p)}</g>\n' for i, p in enumerate(panels))
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}"'
    box = f'viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box}><style>{STYLE}</style>{background}\n{drawn}</svg>\n'


def _panel(panel: Panel) -> str:
    xs, ys = zip(*panel.points, strict=True)
    across, up = _scale(xs, LEFT, WIDTH - RIGHT), _scale(ys, HEIGHT - BOTTOM, TOP)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [f'<text class="title" x="{middle}" y="18" text-anchor="middle">{panel.title}</text>']
    for value, place in _ticks(across):
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{place}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:,g}</text>')
    for value, place in _ticks(up):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{place + 4}" text-anchor="end">{value:,g}</text>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{panel.x_label}</text>')
    centre = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {centre})"'
    parts.append(f'<text x="14" y="{centre}" text-anchor="middle" {turned}>{panel.y_label}</text>')
    low = max(xs[0], xs[-1] * up.low / ys[-1])  # where the straight line leaves the panel
    parts.append(_line("linear", across, up, [(low, ys[-1] * low / xs[-1]), (xs[-1], ys[-1])]))
    parts.append(_line("line", across, up, panel.points))
    parts += [f'<circle class="point" r="3.5" cx="{across(x)}" cy="{up(y)}"/>' for x, y in panel.points]
    return "\n".join(parts)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    """From the power of ten below the least value to the one above the greatest."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return _Scale(10.0**low, 10.0 ** max(high, low + 1), start, end)


def _ticks(scale: _Scale) -> Iterator[tuple[float, float]]:
    value = scale.low
    while value <= scale.high * 1.001:
        yield value, scale(value)
        value *= 10


def _line(style: str, across: _Scale, up: _Scale, points: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="{style}" points="{" ".join(f"{across(x)},{up(y)}" for x, y in points)}"/>'
