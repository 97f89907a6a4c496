"""`maskc explain`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import Without, command
from maskc.cli.output import console, print_json, warn
from maskc.compilation.options import CompileOptions
from maskc.errors import InputError

_CODE = re.compile(r"[A-Za-z]\d{3}")


@command(rules=True)
def explain(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="An .onnx, .keras or .h5 file or a SavedModel directory; or the code of a reason, such as K101.",
            show_default=False,
        ),
    ],
    options: Annotated[CompileOptions, Without("at"), Without("align_seconds")],
    as_json: shared.Json = False,
) -> None:
    """Show which operators keep masked channels alive, and why.

    Each reason has a code. What might remove the channels is tried, and
    advised where it does. Takes the options of compile and writes nothing.

    Examples: maskc explain model_dir

    maskc explain K101
    """
    if _CODE.fullmatch(str(model)) and not model.exists():
        _show_reason(str(model).upper(), as_json)
        return
    from maskc.compilation.compile import explain_with

    result = explain_with(model, options)
    warn(result.warnings)
    if as_json:
        told = result.to_json()
        print_json({key: told[key] for key in ("model", "channels", "masked", "held", "widths", "notes", "warnings")})
        return
    from maskc.report.terminal import show_explanation

    show_explanation(result.document(), console(), masks=options.masks is not None)


def _show_reason(code: str, as_json: bool) -> None:
    """Print what a code means and what to do. Raises `InputError` where there is no such code."""
    from passes.abstract_values.kept_reasons import REASONS

    reason = REASONS.get(code)
    if reason is None:
        raise InputError(f"No reason has the code {code}. There are {', '.join(REASONS)}.")
    if as_json:
        print_json(dataclasses.asdict(reason))
        return
    out = console()
    for text in (f"{reason.code}: {reason.words}", reason.meaning, f"What to do: {reason.action}"):
        out.print(text)
