"""Report page: one HTML file without references to other files or a network."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from maskc.report import charts
from maskc.report.wording import brief, by_operator, counted_at, few_ranges, size, where_run
from maskc.results.document import Document
from maskc.results.layers import Layer
from maskc.runtime.session import place
from passes.abstract_values.kept_reasons import SPEED

_TEMPLATES = Path(__file__).with_name("templates")

# What HTML does not take, and what would turn the text around it: C0 and C1 controls and directions of writing.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# More rows than these scroll in a box of their own.
_ROWS = 14


@dataclass(frozen=True)
class Figure:
    """One kind of figure of both models."""

    name: str
    before: str
    after: str
    factor: str
    bars: charts.BarPair


@dataclass(frozen=True)
class Row:
    """A layer with its bars; `state` is `same`, `changed`, `gone` or `new`."""

    layer: Layer
    state: str
    channels: charts.BarPair
    flops: charts.BarPair


@dataclass(frozen=True)
class Verdict:
    """The verification in brief: `kind` is `good`, `bad` or `open`."""

    kind: str
    title: str
    detail: str


def environment() -> Environment:
    """The environment of all pages' templates, with the filters that they use."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=printable,
    )
    made.filters.update(brief=brief, factor=factor, ranges=few_ranges, error=error, ms=milliseconds)
    made.filters.update(prose=prose, name=name)
    return made


def stylesheet() -> Markup:
    """The style of all pages."""
    return Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))


def page(document: Document) -> str:
    """The whole page as text."""
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    outputs = document.verification.outputs if document.verification else ()
    drawn = [chart for chart in map(charts.histogram, outputs) if chart is not None]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=document,
            title=_base(document.model) or _base(document.output) or "a model in memory",
            style=stylesheet(),
            script=Markup(script),
            script_hash=digest,
            figures=_figures(document),
            counted_at=counted_at(document.before.at, document.after.at),
            verdict=_verdict(document),
            rows=_rows(document.layers),
            others=_others(document),
            skylines=charts.skylines(document.layers),
            strips=charts.strips(document.masked or (), document.held or ()),
            holders=by_operator(item for item in document.held or () if not item.aligned),  # those are in `widths`
            speed=SPEED.code,
            histograms=drawn,
            spans=charts.spans(document.latency) if document.latency else (),
            scrolls=lambda things: len(things) > _ROWS,
            place=place,
        )
    )


def printable(value: Any) -> Any:
    """Text without characters that a page cannot hold; anything else as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNPRINTABLE.sub("\ufffd", value)
    return value


def prose(text: str) -> Markup:
    """A sentence with what stands between backquotes set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(printable(text)))))


def name(text: str) -> Markup:
    """A name that may break after its slashes."""
    return Markup(str(escape(printable(text))).replace("/", "/<wbr>"))


def factor(before: float, after: float) -> str:
    """A reduction: 2.50×; in words where it is none, nothing changed, or there is nothing to divide by."""
    if before == after:
        return "unchanged"
    if after == 0:
        return "all removed"
    if before > after:
        return f"{before / after:.2f}×"
    return f"{after / before:.2f}× more" if before else "new"


def error(value: float | None) -> str:
    """An error in brief; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else "0" if value == 0 else f"{value:.1e}"


def milliseconds(value: float) -> str:
    """A time in milliseconds, in three digits."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def _base(path: str | None) -> str:
    return Path(path).name if path else ""


def _figures(document: Document) -> list[Figure]:
    before, after = document.before, document.after
    return [
        Figure(label, told(left), told(right), factor(left, right), charts.bars(left, right, max(left, right)))
        for label, left, right, told in (
            ("FLOPs", before.flops, after.flops, "{:,}".format),
            ("Multiply-accumulates", before.macs, after.macs, "{:,}".format),
            ("Parameters", before.params, after.params, "{:,}".format),
            ("File size", before.bytes, after.bytes, size),
        )
    ]


def _verdict(document: Document) -> Verdict:
    checked = document.verification
    if checked is None:
        return Verdict("open", "Not verified", "The two models were not compared.")
    how = f"Compared on {checked.samples} samples, seed {checked.seed}, {where_run(checked)}."
    errors = [output.max_rel for output in checked.outputs if output.histogram and output.compared]
    all_compared = all(output.compared for output in checked.outputs)
    if not checked.samples:
        how = "The models were not run."
    if errors and max(errors) == 0:
        how += f" All {'outputs' if all_compared else 'other outputs'} are equal to the last bit."
    elif errors:
        how += f" The largest error is {error(max(errors))} of its output's scale."
    if checked.passed:
        return Verdict("good", "Outputs match", how)
    if not checked.reasons:
        return Verdict("open", "Inconclusive", f"{how} No difference was found, but one might not show.")
    return Verdict("bad", "Outputs match, reduction too small" if checked.equivalent else "Outputs differ", how)


def _rows(layers: Iterable[Layer]) -> list[Row]:
    layers = list(layers)
    widest = max((width or 0 for layer in layers for width in (layer.width_before, layer.width_after)), default=0)
    most = max((flops for layer in layers for flops in (layer.flops_before, layer.flops_after)), default=0)
    return [
        Row(
            layer,
            _state(layer),
            charts.bars(layer.width_before, layer.width_after, widest),
            charts.bars(layer.flops_before, layer.flops_after, most),
        )
        for layer in layers
    ]


def _state(layer: Layer) -> str:
    if layer.only is not None:
        return "gone" if layer.only == "before" else "new"
    return "changed" if layer.changed else "same"


def _others(document: Document) -> tuple[int, int]:
    """FLOPs before and after of what is no layer."""
    return (
        document.before.flops - sum(layer.flops_before for layer in document.layers),
        document.after.flops - sum(layer.flops_after for layer in document.layers),
    )
