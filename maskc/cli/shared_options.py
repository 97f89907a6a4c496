"""Arguments and options of several commands, besides those of reading, compiling and verifying."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import supervision
from maskc.cli.output import volume
from maskc.inspection.options import option


def _set_volume(parameter: typer.CallbackParam, value: bool) -> bool:
    if value:
        setattr(volume, str(parameter.name), True)
        if volume.quiet and volume.verbose:
            raise typer.BadParameter("-q and -v cannot both be given")
    return value


def _set_trust(value: bool) -> bool:
    if value:
        os.environ["MASKC_TRUST"] = "1"  # for processes that are started as well
    return value


def _set_timeout(value: float | None) -> float | None:
    if value is not None:
        if not supervision.is_possible():
            raise typer.BadParameter("--timeout is not there on Windows")
        supervision.limit(value)
    return value


def _set_memory(value: float | None) -> float | None:
    if value is not None:
        if not supervision.can_watch_memory():
            raise typer.BadParameter("--memory is there on Linux only")
        supervision.limit_memory(value)
    return value


def share(text: str | float) -> float:
    """A fraction, from `0.01` or `1%`."""
    try:
        return float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a fraction, such as 0.01 or 1%") from None


Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="An .onnx, .keras or .h5 file or a SavedModel directory.", show_default=False),
]
Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL", help="An .onnx, .keras or .h5 file or a SavedModel directory; or several.", show_default=False
    ),
]
Rules = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.py",
        help="Python code to run first, with rules for custom operators or your own Keras layers; may be repeated.",
    ),
]
Reports = Annotated[
    list[Path] | None,
    typer.Option(
        "--report", metavar="FILE.html|FILE.json", help="Write a report as a page or as data; may be repeated."
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json", help="Write the proof that both are the same function, which `maskc recheck` checks."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", metavar="N", help="How many models to compile at a time; by default one per core."),
]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Compare with the source before anything is written.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_set_volume, help="Print only errors.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_set_volume, help="Log each step and its time on stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of trust, time and memory, which the options set by themselves."""

    trust: bool = option(
        False,
        "Read a SavedModel that reaches files, Python or other machines; reading and verifying one runs it.",
        "--trust",
        callback=_set_trust,
    )
    timeout: float | None = option(
        None,
        "Stop after this many seconds, whatever it is doing; nothing is written then.",
        metavar="SECONDS",
        min=0.0,
        callback=_set_timeout,
    )
    memory: float | None = option(
        None,
        "Stop when it takes more than this many gigabytes of memory; nothing is written then.",
        metavar="GB",
        min=0.0,
        callback=_set_memory,
    )
