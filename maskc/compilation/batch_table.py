"""Terminal output of a batch: a line for each model, and a table of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from maskc.report.terminal import table_of_names
from maskc.report.visible_console import VisibleConsole
from maskc.report.wording import brief, factor, size, sizes_in_brief

if TYPE_CHECKING:
    from maskc.compilation.batch import BatchOutcome


def show_one(outcome: BatchOutcome, out: VisibleConsole) -> None:
    """A line on a model that was compiled."""
    report = outcome.report
    assert report is not None
    flops = report.before.flops, report.after.flops
    out.print(
        f"{outcome.model} → {outcome.output}: {brief(flops[0])} → {brief(flops[1])} FLOPs, {factor(*flops)}, at "
        f"{sizes_in_brief(report.before.at)}",
        soft_wrap=True,
    )


def show_all(outcomes: Sequence[BatchOutcome], out: VisibleConsole) -> None:
    """All models in one table, in the order of their names."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.model)
    names = [str(outcome.model) for outcome in ordered]
    titles = ("at", "FLOPs", "reduction", "file", "")
    out.print(table_of_names("Model", names, titles, [_cells(outcome) for outcome in ordered], out.width, left=("",)))
    failed = sum(outcome.report is None for outcome in outcomes)
    if failed:
        out.print(f"{failed} of {len(outcomes)} models failed.", style="red")


def _cells(outcome: BatchOutcome) -> tuple[str | Text, ...]:
    report = outcome.report
    if report is None:
        return "-", "-", "-", "-", Text("failed", style="red")
    before, after = report.before, report.after
    return (
        sizes_in_brief(before.at),
        f"{brief(before.flops)} → {brief(after.flops)}",
        factor(before.flops, after.flops),
        f"{size(before.bytes)} → {size(after.bytes)}",
        Text("verified", style="green") if report.verified else Text("not verified", style="yellow"),
    )
