"""Terminal output of compilations, comparisons, counts and differences."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from maskc.errors import visible
from maskc.report.visible_console import VisibleConsole
from maskc.report.wording import (
    brief,
    codes_line,
    counted_at,
    factor,
    held_lines,
    masked_line,
    size,
    where_run,
    width_lines,
)

if TYPE_CHECKING:
    from maskc.results.diff import Change, Diff
    from maskc.results.document import Checked, Document
    from maskc.results.layers import Layer
    from maskc.results.measurements import Agreement, Figures, Latency, OutputError
    from maskc.results.verification import Verification
    from passes.sizes.cost_values import Cost, CountedAt

_COLOURS = {"verified": "green", "failed": "red", "cannot tell": "yellow"}
_OUTCOMES = {"ok": "green", "differs": "red", "not compared": "yellow"}

# Wide enough for names of tensors when the output goes to a file or a pipe, where nothing says how wide it is.
PIPE_WIDTH = 120

# Terminals of fewer columns get a narrower table of errors.
NARROW = 100

# Of a file's own descriptions no more is shown.
_LONGEST = 100


def table(name: str, *figures: str) -> Table:
    """A table without lines: names in the first column, which may break, and figures at the right of the others."""
    made = Table(box=None, pad_edge=False)
    made.add_column(name, overflow="fold")
    for title in figures:
        made.add_column(title, justify="right")
    return made


# Said where nothing is masked and no masks were given.
_NO_MASKS = (
    "No channel is masked: the model holds no masks, and no `--masks` were given. `maskc prune` makes a smaller model "
    "of one without masks, and needs some inputs."
)


def show_compilation(report: Document, out: VisibleConsole, *, masks: bool = True, lists: bool = False) -> None:
    """Channels removed and kept, and the figures of both models.

    `masks`: whether a mask file was given. `lists`: whether to list the channels that are kept, with the operators.
    """
    show_figures(report.model, report.output, report.before, report.after, out)
    _show_masked(report, out, masks, hint=not lists)
    for line in _kept(report) if lists else ():
        out.print(f"  {line}", soft_wrap=True)
    _show_notes(report.notes, out)
    if report.verification is not None:
        out.print(_verdict(report.verification), soft_wrap=True)
        _show_notes(report.verification.notes, out)


def show_pruning(
    report: Document,
    agreement: Sequence[Agreement],
    quality: tuple[float, float] | None,
    loss: tuple[float, float] | None,
    drop: tuple[float, str] | None,
    out: VisibleConsole,
    *,
    alone: bool,
) -> None:
    """The figures of both models, and how each output compares with the source's.

    `quality` and `loss`: of both, by the user's measures. `drop`: the share that is lost, and of what. `alone`: whether
    the data are those that were pruned by.
    """
    show_figures(report.model, report.output, report.before, report.after, out)
    if report.verification is not None:
        out.print(_verdict(report.verification, " those of the masked network"), soft_wrap=True)
    if report.latency is not None:
        out.print(_latency(report.latency), soft_wrap=True)
    if quality is not None:
        out.print(f"Quality: {quality[0]:.6g} before, {quality[1]:.6g} after")
    if loss is not None:
        out.print(f"Loss: {loss[0]:.4g} before, {loss[1]:.4g} after")
    if drop is not None:
        out.print(f"Drop: {drop[0]:.3g}{drop[1]}", soft_wrap=True)
    rows = table("Output", "error", "same prediction")
    for output in agreement:
        error = "" if output.error is None else f"{output.error:.3f}"
        same = "" if output.top is None else f"{output.top:.1%} of {output.positions:,}"
        rows.add_row(visible(output.output), error, same)
    out.print(rows)
    data = "the data that it was pruned by" if alone else "data that pruning did not use"
    out.print(f"Against the source, on {data}; the error is of the source's spread.", soft_wrap=True)


def show_figures(model: object, output: object, before: Figures, after: Figures, out: VisibleConsole) -> None:
    """The paths of a model and of the smaller one, and their figures."""
    out.print(f"{model} → {output}", soft_wrap=True)
    show_sizes(out, before.at, after.at)
    out.print(_figures(before, after))


def show_verification(result: Verification, out: VisibleConsole) -> None:
    """The figures of both files and the error of every output."""
    show_sizes(out, result.before.at, result.after.at)
    out.print(_figures(result.before, result.after, reduces=result.equivalent))
    if result.outputs:
        out.print(_errors(result.outputs, out.width < NARROW))
    if result.regions is not None and not result.reasons:
        out.print(str(result.regions), soft_wrap=True)
    if result.latency is not None:
        out.print(_latency(result.latency), soft_wrap=True)
    _show_notes(result.notes, out)
    for reason in (*result.reasons, *result.undecided):
        out.print(reason, style="red" if result.reasons else "yellow", soft_wrap=True)
    out.print(_verdict(result), soft_wrap=True, style=_COLOURS[result.verdict])


def show_reports(reports: Sequence[Path], out: VisibleConsole) -> None:
    """The paths of the reports."""
    for report in reports:
        out.print(f"Report: {report}", soft_wrap=True)


def show_cost(cost: Cost, out: VisibleConsole) -> None:
    """Totals, and which kinds of operators they come from."""
    kinds: dict[str, list[int]] = {}
    for node in cost.nodes:
        counts = kinds.setdefault(node.op, [0, 0, 0])
        counts[0] += 1
        counts[1] += node.flops
        counts[2] += node.macs
    rows = table("Operator", "Nodes", "FLOPs", "MACs")
    for op, (nodes, flops, macs) in sorted(kinds.items(), key=lambda item: (-item[1][1], item[0])):
        if flops:
            rows.add_row(op, f"{nodes:,}", f"{flops:,}", f"{macs:,}")
    rows.add_row("Total", f"{len(cost.nodes):,}", f"{cost.flops:,}", f"{cost.macs:,}", style="bold")
    show_sizes(out, cost.at)
    out.print(rows)
    out.print(f"Parameters: {cost.params:,}")


def show_explanation(report: Document, out: VisibleConsole, *, masks: bool = True) -> None:
    """The operators that keep masked channels alive, with advice; `masks` as for a compilation."""
    _show_masked(report, out, masks)
    for line in _kept(report):
        out.print(line, soft_wrap=True)
    _show_notes(report.notes, out)


def _show_masked(report: Document, out: VisibleConsole, masks: bool, hint: bool = False) -> None:
    if report.channels is not None and (report.masked or report.channels.held):
        out.print(masked_line(report, hint=hint), soft_wrap=True)
    else:
        out.print("No channel is masked." if masks else _NO_MASKS, soft_wrap=True)


def _kept(report: Document) -> Iterable[str]:
    """The channels that are kept: by operators, with where their codes are explained, and for speed."""
    held, widths = report.held or (), report.widths or ()
    return *held_lines(held), *width_lines(widths), *codes_line(held, widths)


def show_diff(found: Diff, out: VisibleConsole, every: bool = False) -> None:
    """The layers that changed, or `every` one, then the totals, then what else is not the same."""
    out.print(f"{found.models[0]} → {found.models[1]}", soft_wrap=True)
    show_sizes(out, found.before.at, found.after.at)
    changed = [layer for layer in found.layers if layer.changed]
    shown = found.layers if every else changed
    if shown:
        out.print(_layers(shown, out.width))
    same = len(found.layers) - len(changed)
    if same and not every:
        which = "All layers" if not changed else f"{same:,} other layers" if same > 1 else "1 other layer"
        out.print(f"{which} {'is' if same == 1 and changed else 'are'} the same; --all shows them.")
    elif not found.layers:
        out.print("Neither model has a layer that multiplies and accumulates.")
    out.print(_figures(found.before, found.after))
    if found.changes:
        out.print(_changes(found.changes))
    else:
        out.print("Inputs, outputs, opsets, operators and metadata are the same.")


def show_sizes(out: VisibleConsole, before: CountedAt, after: CountedAt | None = None) -> None:
    """The sizes at which FLOPs of one model, or of two, were counted."""
    if told := counted_at(before, after):
        out.print(told, soft_wrap=True)


def _figures(before: Figures, after: Figures, *, reduces: bool = True) -> Table:
    """A row for each figure; a model that is another function reduces nothing."""
    rows = table("", "before", "after", *["reduction"] * reduces)
    for name, left, right in (
        ("FLOPs", before.flops, after.flops),
        ("MACs", before.macs, after.macs),
        ("Parameters", before.params, after.params),
    ):
        rows.add_row(name, f"{left:,}", f"{right:,}", *[factor(left, right)] * reduces)
    rows.add_row("File size", size(before.bytes), size(after.bytes), *[factor(before.bytes, after.bytes)] * reduces)
    return rows


def _layers(rows: Sequence[Layer], width: int) -> Table:
    """A row for each layer; in a narrow terminal without parameters, of which the totals are given."""
    titles = ("Operator", "In", "Out", "FLOPs", "Change", "Parameters")
    cells = [
        (
            _arrow(layer.op, layer.op_after or layer.op),
            _channels(layer.reads_before, layer.reads_after),
            _channels(layer.width_before, layer.width_after),
            _arrow(brief(layer.flops_before), brief(layer.flops_after)),
            Text(*_change(layer)),
            _arrow(brief(layer.params_before), brief(layer.params_after)),
        )
        for layer in rows
    ]
    shown = len(titles) - (width < NARROW)
    names = [_cut(layer.name) + (f" → {_cut(layer.name_after)}" if layer.name_after else "") for layer in rows]
    return table_of_names("Layer", names, titles[:shown], [row[:shown] for row in cells], width, left=("Operator",))


def table_of_names(
    title: str,
    names: Sequence[str],
    titles: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    width: int,
    *,
    left: Collection[str] = (),
) -> Table:
    """A table whose first column has names, broken after slashes and the like so that the table fits into the width.

    `left` are titles of columns that are not aligned to the right.
    """
    made = table(title)
    for name in titles:
        made.add_column(Text(name), justify="left" if name in left else "right", no_wrap=True)
    columns = zip(titles, *([str(cell) for cell in row] for row in rows), strict=True)
    rest = width - sum(2 + max(max(map(len, cell.split("\n"))) for cell in column) for column in columns)
    for name, row in zip(names, rows, strict=True):
        made.add_row(
            Text(_broken(visible(name), rest)), *(Text(cell) if isinstance(cell, str) else cell for cell in row)
        )
    return made


def _channels(before: int | None, after: int | None) -> str:
    return _arrow(*("-" if channels is None else f"{channels:,}" for channels in (before, after)))


def _broken(name: str, width: int) -> str:
    """A name on as many lines as it takes: broken after slashes and between words, and within a part where it must."""
    lines = [""]
    for whole in re.findall(r"[^/ ]*[/ ]|[^/ ]+", name):
        for part in [whole] if len(whole.rstrip()) <= width else re.findall(r"[^_.-]*[_.-]|[^_.-]+", whole):
            if lines[-1] and len((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _change(layer: Layer) -> tuple[str, str]:
    """The change of a layer's FLOPs, and its colour."""
    if layer.only is not None:
        return ("removed", "green") if layer.only == "before" else ("new", "red")
    if layer.flops_before == layer.flops_after:
        return "0", ""
    if not layer.flops_before:
        return "+", "red"
    change = layer.flops_after / layer.flops_before - 1
    return f"{change:+.1%}", "red" if change > 0 else "green"


def _changes(changes: Sequence[Change]) -> Table:
    rows = table("Also changed")
    for title in ("", "before", "after"):
        rows.add_column(title, overflow="fold")
    for change in changes:
        sides = ("-" if value is None else str(value) for value in (change.before, change.after))
        rows.add_row(change.kind, *(Text(_cut(text)) for text in (change.name, *sides)))
    return rows


def _cut(text: str) -> str:
    """The beginning of a long text, on one line."""
    line = visible(text)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _errors(outputs: Sequence[OutputError], narrow: bool) -> Table:
    """A row for each output; a `narrow` table says in one column what is compared, and nothing of it is cut off."""
    rows = table("Output")
    if not narrow:
        rows.add_column("against")
        rows.add_column("type", justify="right")
    figures = ("max abs", "mean", "relative") if narrow else ("max abs error", "mean", "relative to scale")
    for title in (*figures, "tolerance", "ULPs", "top-1", ""):
        rows.add_column(title, justify="right", no_wrap=narrow and title != "tolerance")
    for output in outputs:
        allowed = f"{output.rtol:.0e}" if output.dtype.startswith(("float", "bfloat", "complex")) else "equal"
        if output.explained:
            allowed += " or rounding"
        what = [output.name, output.against, output.dtype]
        rows.add_row(
            *([Text(", ".join(what))] if narrow else [Text(what[0]), *what[1:]]),
            *(
                f"{error:.2e}" if output.compared and math.isfinite(error) else "-"
                for error in (output.max_abs, output.mean_abs, output.max_rel)
            ),
            allowed,
            "-" if output.ulps is None else f"{output.ulps:.3g}",
            "-" if output.top1 is None else f"{output.top1:.1%}",
            Text(output.outcome, style=_OUTCOMES[output.outcome]),
        )
    return rows


def _latency(latency: Latency) -> str:
    before, after = (f"{q[1]:.3g} ms ({q[0]:.3g} to {q[2]:.3g})" for q in (latency.before, latency.after))
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in latency.shapes.items())
    return (
        f"Latency, median and quartiles of {latency.runs} runs in turns: {before} before, {after} after, "
        f"{latency.speedup:.2f}× ({shapes})."
    )


def _verdict(result: Checked, whose: str = "") -> str:
    how = f"{result.samples} samples, seed {result.seed}, {where_run(result)}"
    if result.passed:
        return f"Verified: the outputs match{whose} on {how}."
    if not result.reasons:
        return f"Inconclusive: no difference on {how}, but one might not show."
    if result.equivalent:
        return f"Failed: the outputs match on {how}, but the reduction is too small."
    return f"Failed: the outputs differ ({how})."


def _show_notes(notes: Iterable[str], out: VisibleConsole) -> None:
    for note in notes:
        out.print(f"Note: {note}", style="yellow", soft_wrap=True)
