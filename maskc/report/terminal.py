"""Results as a person reads them in a terminal."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskc.runtime.session import provider_title
from maskc.version import __version__

if TYPE_CHECKING:
    from maskc.results.compilation import CompileReport
    from maskc.results.diff import Change, Diff
    from maskc.results.layers import Layer
    from maskc.results.totals import Figures
    from maskc.runtime.latency import Latency
    from maskc.verification.exact import ExactError
    from maskc.verification.tolerance import OutputError
    from maskc.verification.verify import Verification
    from passes.results import Cost, Held, Width

# Wide enough for names of tensors when the output goes to a file or a pipe, where nothing says how wide it
# is.
PIPE_WIDTH = 120

# Terminals of fewer columns get a narrower table of errors.
_NARROW = 100

_LIBRARIES = ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu", "tensorflow", "keras", "tf2onnx")

# Of a file's own descriptions no more is shown.
_LONGEST = 100


def console(quiet: bool = False) -> Console:
    """A console for stdout that does not shorten what it prints into a pipe; a quiet one prints nothing."""
    plain = Console(highlight=False, quiet=quiet)
    return plain if plain.is_terminal else Console(highlight=False, quiet=quiet, width=max(plain.width, PIPE_WIDTH))


def versions() -> str:
    """A line on what runs here: maskc, Python and the libraries that results depend on."""
    found = [f"maskc {__version__}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def show_compilation(report: CompileReport, out: Console) -> None:
    """What went and what stayed, in the order in which it matters."""
    out.print(f"{report.model} → {report.output}", markup=False, soft_wrap=True)
    out.print(_figures(report.before, report.after))
    held = sum(len(item.channels) for item in report.held)
    if report.masked or held:
        out.print(
            f"Masked channels: {report.channels_masked:,}, of which {report.channels_removed:,} are removed"
            + (f" and {held:,} stay:" if held else "."),
        )
    else:
        out.print("No channel is masked.")
    for line in held_lines(report.held):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    for line in width_lines(report.widths):
        out.print(line, markup=False, soft_wrap=True)
        break  # `maskc explain` and reports tell of each layer
    _show_notes(report.notes, out)
    if report.verification is not None:
        out.print(_verdict(report.verification), markup=False, soft_wrap=True)
        _show_notes(report.verification.notes, out)


def show_verification(result: Verification, out: Console) -> None:
    """The figures of both files and the error of every output."""
    out.print(_figures(result.before, result.after))
    if result.outputs:
        out.print(_errors(result.outputs, out.width < _NARROW))
    if result.exact:
        out.print(_exact(result.exact))
    if result.latency is not None:
        out.print(_latency(result.latency), markup=False, soft_wrap=True)
    _show_notes(result.notes, out)
    for reason in result.reasons:
        out.print(reason, style="red", markup=False, soft_wrap=True)
    if result.parting is not None:
        out.print(str(result.parting), style="red", markup=False, soft_wrap=True)
    out.print(_verdict(result), markup=False, soft_wrap=True, style="green" if result.passed else "red")


def show_reports(reports: Sequence[Path], out: Console) -> None:
    """Where reports were written."""
    for report in reports:
        out.print(f"Report: {report}", markup=False, soft_wrap=True)


def show_cost(cost: Cost, out: Console) -> None:
    """Totals, and which kinds of operators they come from."""
    kinds: dict[str, list[int]] = {}
    for node in cost.nodes:
        counts = kinds.setdefault(node.op, [0, 0, 0])
        counts[0] += 1
        counts[1] += node.flops
        counts[2] += node.macs
    table = Table(box=None, pad_edge=False)
    for title in ("Operator", "Nodes", "FLOPs", "MACs"):
        table.add_column(title, justify="left" if title == "Operator" else "right")
    for op, (nodes, flops, macs) in sorted(kinds.items(), key=lambda item: (-item[1][1], item[0])):
        if flops:
            table.add_row(op, f"{nodes:,}", f"{flops:,}", f"{macs:,}")
    table.add_row("Total", f"{len(cost.nodes):,}", f"{cost.flops:,}", f"{cost.macs:,}", style="bold")
    out.print(table)
    out.print(f"Parameters: {cost.params:,}")


def show_explanation(report: CompileReport, out: Console) -> None:
    """What holds the masked channels that stay, and what to do about it."""
    held = sum(len(item.channels) for item in report.held)
    if not report.masked:
        out.print("No channel is masked.")
    elif not held:
        out.print(f"All {report.channels_masked:,} masked channels go; nothing holds any of them.")
    else:
        out.print(f"Masked channels: {report.channels_masked:,}, of which {held:,} stay:")
    for line in (*held_lines(report.held), *width_lines(report.widths)):
        out.print(line, markup=False, soft_wrap=True)
    _show_notes(report.notes, out)


def show_diff(found: Diff, out: Console, every: bool = False) -> None:
    """The layers that changed, or `every` one, then the totals, then what else is not the same."""
    out.print(f"{found.models[0]} → {found.models[1]}", markup=False, soft_wrap=True)
    changed = [layer for layer in found.layers if layer.changed]
    shown = found.layers if every else changed
    if shown:
        out.print(_layers(shown))
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


def held_lines(held: Sequence[Held]) -> Iterable[str]:
    """A line per holder and reason, and below it one for each mask: its channels, who writes them, what to do.

    Channels that stay for a width are told of by layer, in `width_lines`.
    """
    groups: dict[tuple[str, str, str], list[Held]] = {}
    for item in held:
        if item.aligned:
            continue
        groups.setdefault((item.op, item.node, item.reason), []).append(item)
    for (op, node, reason), items in groups.items():
        yield f"{node} {reason}:" if op in ("output", "all") else f"{op} '{node}' {reason}:"
        for item in items:
            count = len(item.channels)
            written = f"still written by '{item.written_by}' through {op} '{node}'; " if item.written_by else ""
            what = f"mask '{item.tensor}' axis {item.axis}, channel{'s' * (count > 1)} {ranges(item.channels)}"
            yield f"  {what}: {written}{item.advice}".rstrip(": ")


def width_lines(widths: Sequence[Width]) -> Iterable[str]:
    """A line on the layers that keep channels for their widths, and one for each of them."""
    if not widths:
        return
    more, count = sum(width.kept - width.live for width in widths), len(widths)
    layers, channels = "1 layer keeps" if count == 1 else f"{count:,} layers keep", "channel" + "s" * (more > 1)
    yield f"{layers} {more:,} {channels} for the sake of a width; `--align none` lets go of them."
    for width in widths:
        counts = f"{width.live:,} live of {width.total:,}, {width.kept:,} computed"
        yield f"  {width.op} '{width.node}': {counts}: {width.reason}"


def ranges(channels: Sequence[int]) -> str:
    """Channel numbers in brief: 0-3, 7, 9-10."""
    parts: list[str] = []
    start = previous = None
    for channel in [*sorted(channels), None]:
        if start is not None and channel is not None and channel == previous + 1:  # type: ignore[operator]
            previous = channel
            continue
        if start is not None:
            parts.append(f"{start}" if start == previous else f"{start}-{previous}")
        start = previous = channel
    return ", ".join(parts)


def size(count: int) -> str:
    """Bytes as a person reads them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _figures(before: Figures, after: Figures) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("before", "after", "reduction"):
        table.add_column(title, justify="right")
    for name, left, right in (
        ("FLOPs", before.flops, after.flops),
        ("MACs", before.macs, after.macs),
        ("Parameters", before.params, after.params),
    ):
        table.add_row(name, f"{left:,}", f"{right:,}", factor(left, right))
    table.add_row("File size", size(before.bytes), size(after.bytes), factor(before.bytes, after.bytes))
    return table


def factor(before: int, after: int) -> str:
    """How many times less, or in a word where there is nothing to divide by."""
    if after == 0:
        return "-" if before == 0 else "all"
    return f"{before / after:.2f}×"


def _layers(rows: Sequence[Layer]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("Layer", overflow="fold")
    table.add_column("Operator", overflow="fold")
    for title in ("Channels", "FLOPs", "Change", "Parameters"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in rows:
        name = _cut(layer.name) + (f" → {_cut(layer.name_after)}" if layer.name_after else "")
        change, style = _change(layer)
        table.add_row(
            Text(name),
            Text(_arrow(layer.op, layer.op_after or layer.op)),
            _arrow(*("-" if width is None else f"{width:,}" for width in (layer.width_before, layer.width_after))),
            _arrow(brief(layer.flops_before), brief(layer.flops_after)),
            Text(change, style=style),
            _arrow(brief(layer.params_before), brief(layer.params_after)),
        )
    return table


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _change(layer: Layer) -> tuple[str, str]:
    """What became of a layer's FLOPs, and the colour to say it in."""
    if layer.only is not None:
        return ("gone", "green") if layer.only == "before" else ("new", "red")
    if layer.flops_before == layer.flops_after:
        return "0", ""
    if not layer.flops_before:
        return "+", "red"
    change = layer.flops_after / layer.flops_before - 1
    return f"{change:+.1%}", "red" if change > 0 else "green"


def brief(count: int) -> str:
    """A count in at most five signs; exact below 10,000."""
    if count < 10_000:
        return f"{count:,}"
    power = next((power for power in range(1, 5) if count < 999.5 * 1000**power), 5)
    value, unit = count / 1000**power, " kMGTP"[power]
    return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.{1 if value >= 9.995 else 2}f}{unit}"


def _changes(changes: Sequence[Change]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("Also changed", "", "before", "after"):
        table.add_column(title, overflow="fold")
    for change in changes:
        sides = ("-" if value is None else str(value) for value in (change.before, change.after))
        table.add_row(change.kind, *(Text(_cut(text)) for text in (change.name, *sides)))
    return table


def _cut(text: str) -> str:
    """The beginning of a long text, on one line, without what a terminal would take for commands."""
    line = "".join(sign if sign.isprintable() else "�" for sign in " ".join(text.split()))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _errors(outputs: Sequence[OutputError], narrow: bool) -> Table:
    """A row for each output; a `narrow` table says in one column what is compared, and nothing of it is cut off."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Output", overflow="fold")
    if not narrow:
        table.add_column("against")
        table.add_column("type", justify="right")
    figures = ("max abs", "mean", "relative") if narrow else ("max abs error", "mean", "relative to scale")
    for title in (*figures, "allowed", "ULPs", "top-1", ""):
        table.add_column(title, justify="right", no_wrap=narrow and title != "allowed")
    for output in outputs:
        allowed = f"{output.rtol:.0e}" if output.dtype.startswith(("float", "bfloat", "complex")) else "equal"
        if output.noise is not None:
            allowed += " or noise"
        what = [output.name, output.against, output.dtype]
        table.add_row(
            *([Text(", ".join(what))] if narrow else [Text(what[0]), *what[1:]]),
            f"{output.max_abs:.2e}",
            f"{output.mean_abs:.2e}",
            f"{output.max_rel:.2e}" if math.isfinite(output.max_rel) else "-",
            allowed,
            "-" if output.ulps is None else f"{output.ulps:.3g}",
            "-" if output.top1 is None else f"{output.top1:.1%}",
            Text("ok", style="green") if output.passed else Text("differs", style="red"),
        )
    return table


def _exact(errors: Sequence[ExactError]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("In double precision", overflow="fold")
    for title in ("relative to scale", "allowed", ""):
        table.add_column(title, justify="right")
    for error in errors:
        table.add_row(
            Text(error.name),
            f"{error.error:.2e}" if math.isfinite(error.error) else "-",
            f"{error.allowed:.0e}",
            Text("ok", style="green") if error.passed else Text("differs", style="red"),
        )
    return table


def _latency(latency: Latency) -> str:
    before, after = (f"{q[1]:.3g} ms ({q[0]:.3g} to {q[2]:.3g})" for q in (latency.before, latency.after))
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in latency.shapes.items())
    return (
        f"Latency, median and quartiles of {latency.runs} runs in turns: {before} before, {after} after, "
        f"{latency.speedup:.2f}× ({shapes})."
    )


def _verdict(result: Verification) -> str:
    where = f"in ONNX Runtime on {provider_title(result.provider)}"
    if any(output.against == "TensorFlow" for output in result.outputs):
        where += " and in TensorFlow"
    how = f"{result.samples} samples, seed {result.seed}, {where}"
    if result.passed:
        return f"Verified: the same function on {how}."
    if result.equivalent:
        return f"Failed: the same function on {how}, but too little reduction."
    return f"Failed: not the same function ({how})."


def _show_notes(notes: Iterable[str], out: Console) -> None:
    for note in notes:
        out.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)
