"""Output formats of `maskc check`: table, Markdown, JUnit, GitHub annotations, JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from rich.text import Text

from maskc.errors import InputError, visible
from maskc.frontend import write_model_files
from maskc.report import files
from maskc.report.terminal import NARROW, PIPE_WIDTH, table_of_names
from maskc.report.visible_console import VisibleConsole
from maskc.report.wording import brief, distinct
from maskc.results.json_values import plain

if TYPE_CHECKING:
    from maskc.regression.check import Outcome
    from maskc.regression.findings import Finding

# Version of what `as_json` writes.
JSON_SCHEMA = 1


def show(outcomes: Sequence[Outcome], out: VisibleConsole) -> None:
    """A table of the models, and below it what is wrong and why."""
    narrow = out.width < NARROW
    titles = _NARROW_TITLES if narrow else _TITLES[1:]
    rows = [_row(outcome, brief) if narrow else _row(outcome) for outcome in outcomes]
    cells: list[list[str | Text]] = []
    for outcome, (_, *figures, verdict) in zip(outcomes, rows, strict=True):
        shown = [*figures[:4], *figures[5:]] if narrow else figures  # without the reduction
        cells.append([*shown, Text(verdict, style="green" if outcome.passed else "red")])
    models = [outcome.model for outcome in outcomes]
    table = table_of_names("Model", models, titles, cells, out.width, left=("Verdict",))
    out.print(table)
    for outcome in outcomes:
        for text in _told(outcome):
            out.print(Text(f"{visible(outcome.model)}: {text}"), style="red", soft_wrap=True)
        for note in outcome.notes:
            out.print(f"{outcome.model}: note: {note}", style="yellow", soft_wrap=True)
    out.print(_summary(outcomes), style="green" if all(o.passed for o in outcomes) else "red")


def failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The failures, each with its model."""
    for outcome in outcomes:
        for text in _told(outcome):
            yield f"{visible(outcome.model)}: {text}"


def as_table(outcomes: Sequence[Outcome]) -> str:
    """The table of `show`, as plain text."""
    out = io.StringIO()
    show(outcomes, VisibleConsole(file=out, width=PIPE_WIDTH, color_system=None))
    return out.getvalue()


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """A table and the explanations, for a comment on a pull request."""
    lines = [f"### maskc check: {_summary(outcomes)}", ""]
    lines += [_cells(_TITLES), _cells(["---", *["---:"] * (len(_TITLES) - 2), "---"])]
    for outcome in outcomes:
        model, *figures, verdict = _row(outcome)
        lines.append(_cells([_code(model), *map(_escaped, figures), verdict if outcome.passed else f"**{verdict}**"]))
    for outcome in outcomes:
        for text in _told(outcome):
            first, *rest = text.split("\n")
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            lines += ["", f"**{_code(outcome.model)}**: {_escaped(first)}"]
            lines += ["", f"{fence}text", *(line.removeprefix("  ") for line in rest), fence] if rest else []
        lines += [f"\n{_code(outcome.model)}: {_escaped(note)}" for note in outcome.notes]
    return "\n".join(lines) + "\n"


def as_junit(outcomes: Sequence[Outcome]) -> str:
    """A JUnit test suite with a case for each model."""
    failures, errors = sum(bool(o.findings) for o in outcomes), sum(bool(o.error) for o in outcomes)
    counts = {"tests": str(len(outcomes)), "failures": str(failures), "errors": str(errors), "skipped": "0"}
    counts["time"] = f"{sum(outcome.seconds for outcome in outcomes):.3f}"
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "maskc check", **counts})
    for outcome in outcomes:
        name = visible(outcome.model)
        case = ElementTree.SubElement(suite, "testcase", {"classname": "maskc", "name": name, "file": name})
        case.set("time", f"{outcome.seconds:.3f}")
        for finding in outcome.findings:
            attributes = {"message": visible(finding.message), "type": finding.kind}
            ElementTree.SubElement(case, "failure", attributes).text = _lines(finding)
        if outcome.error:
            ElementTree.SubElement(case, "error", {"message": visible(outcome.error), "type": "input"})
        if outcome.notes:
            ElementTree.SubElement(case, "system-out").text = "\n".join(map(visible, outcome.notes))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def as_github(outcomes: Sequence[Outcome]) -> str:
    """GitHub's workflow commands: an error at the model for each regression, a notice for each note.

    Source: GitHub, "Workflow commands for GitHub Actions", setting an error message.
    """
    lines = []
    for outcome in outcomes:
        file = _data(outcome.file.as_posix()).replace(":", "%3A").replace(",", "%2C")
        place = f"file={file},title=maskc check"
        lines += [f"::error {place}::{_data(f'{visible(outcome.model)}: {text}')}" for text in _told(outcome)]
        lines += [f"::notice {place}::{_data(visible(f'{outcome.model}: {note}'))}" for note in outcome.notes]
    return "\n".join([*lines, _summary(outcomes)]) + "\n"


def as_json(outcomes: Sequence[Outcome]) -> str:
    """One JSON object; docs/ci.md lists its keys."""
    models = [
        {
            "model": outcome.model,
            "file": str(outcome.file),
            "passed": outcome.passed,
            "findings": plain(outcome.findings),
            "notes": list(outcome.notes),
            "error": outcome.error or None,
            "before": plain(outcome.before),
            "now": plain(outcome.now),
        }
        for outcome in outcomes
    ]
    data = {"schema": JSON_SCHEMA, "passed": all(outcome.passed for outcome in outcomes), "models": models}
    return json.dumps(data, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Outcome]], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "junit": as_junit,
    "github": as_github,
    "json": as_json,
}


def targets(words: Sequence[str], read: Sequence[Path] = ()) -> list[tuple[str, Path | None]]:
    """Formats and files from words like `junit=check.xml`, with one that goes to stdout (None) among them.

    Raises `InputError` for a format that there is not, when several would go to stdout or into one file, and for a file
    that cannot be written or is among those to be `read`.
    """
    found: list[tuple[str, Path | None]] = []
    for word in words:
        name, _, file = word.partition("=")
        if name not in FORMATS:
            raise InputError(f"There is no format '{name}'. Choose from {', '.join(FORMATS)}.")
        found.append((name, Path(file) if file else None))
    printed = [name for name, file in found if file is None]
    if len(set(printed)) > 1:
        raise InputError(f"Only one format can be printed, and not {' and '.join(printed)}. Write the others to files.")
    written = [("report", file) for _, file in found if file is not None]
    for what, path in written:
        files.check_target(path, what)
    files.check_places(written, read)
    return found if printed else [*found, ("table", None)]


def write_all(
    outcomes: Sequence[Outcome],
    targets: Sequence[tuple[str, Path | None]],
    out: VisibleConsole,
    write: Callable[[str], None],
) -> None:
    """Print and write formats, as `targets` gives them. Raises `InputError` when a file cannot be written."""
    for name, file in targets:
        if file is not None:
            write_model_files.write_text(file, FORMATS[name](outcomes))
        elif name == "table":
            show(outcomes, out)
        else:
            write(FORMATS[name](outcomes))


_NARROW_TITLES = ("At", "FLOPs,\nbaseline", "FLOPs,\nnow", "Change", "Channels\nremoved", "Verdict")
_TITLES = ("Model", "At", "FLOPs, baseline", "FLOPs, now", "Change", "Reduction", "Channels removed", "Verdict")


def _row(outcome: Outcome, written: Callable[[int], str] = "{:,}".format) -> list[str]:
    before, now = outcome.before, outcome.now
    old, new = before.after.flops if before else None, now.after.flops if now else None
    change = "-" if not old or new is None else "0" if new == old else f"{new / old - 1:+.2%}"
    reduction = f"{now.before.flops / new:.2f}×" if now and new else "-"
    channels = f"{now.channels.removed:,} of {now.channels.masked:,}" if now else "-"
    good, bad = ("ok", "regressed") if outcome.compared else ("measured" if now else "dropped", "refused")
    verdict = good if outcome.passed else "not checked" if outcome.error else bad
    counts = ("-" if value is None else written(value) for value in (old, new))
    entry = now or before
    at = distinct(entry.at.values()) if entry and entry.at else "-"
    return [outcome.model, at, *counts, change, reduction, channels, verdict]


def _told(outcome: Outcome) -> Iterator[str]:
    """The failures, each a line or several, of which names from files begin none."""
    yield from map(_lines, outcome.findings)
    if outcome.error:
        yield visible(outcome.error)


def _lines(finding: Finding) -> str:
    return str(replace(finding, message=visible(finding.message), details=tuple(map(visible, finding.details))))


def _summary(outcomes: Sequence[Outcome]) -> str:
    failed, errors = sum(bool(o.findings) for o in outcomes), sum(bool(o.error) for o in outcomes)
    compared = all(o.compared for o in outcomes)
    if not failed and not errors:
        done = _models(sum(outcome.now is not None for outcome in outcomes))
        return f"{done} {'checked, none regressed' if compared else 'measured'}."
    parts = [f"{failed} {'regressed' if compared else 'cannot be added'}"] * bool(failed)
    parts += [f"{errors} could not be checked"] * bool(errors)
    return f"Of {_models(len(outcomes))}, {' and '.join(parts)}."


def _models(count: int) -> str:
    return f"{count} model" + "s" * (count != 1)


def _cells(values: Sequence[str]) -> str:
    return "| " + " | ".join(values) + " |"


def _escaped(text: str) -> str:
    """Text on one line in which Markdown and HTML find nothing of theirs, in cells of tables neither."""
    return re.sub(
        r"[\\`*_~<>\[\]#]|([&@|])", lambda sign: _reference(sign) if sign[1] else f"\\{sign[0]}", visible(text)
    )


def _code(name: str) -> str:
    """A name as code; one that would end the code, or the cell of a table, is spelled in character references."""
    name = visible(name)
    if not re.search(r"[`|\\]", name):
        return f"`{name}`"
    return "<code>" + re.sub(r"[^\w ]", _reference, name) + "</code>"


def _reference(sign: re.Match[str]) -> str:
    return f"&#{ord(sign[0])};"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
