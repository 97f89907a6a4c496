"""Arguments and options that several commands have."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import supervision
from maskc.cli.output import volume

_EITHER = "-q and -v cannot both be given"


class Adapters(StrEnum):
    """Where adapters restore constant channels for the operators that need them."""

    auto = "auto"
    always = "always"
    never = "never"


def _set_quiet(value: bool) -> bool:
    if value and volume.verbose:
        raise typer.BadParameter(_EITHER)
    volume.quiet = volume.quiet or value
    return value


def _set_verbose(value: bool) -> bool:
    if value and volume.quiet:
        raise typer.BadParameter(_EITHER)
    volume.verbose = volume.verbose or value
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
Masks = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=(
            "More masks: an .npz or .safetensors file of 1-D arrays of 0 and 1. Keys are `tensor` or "
            "`tensor@axis` for tensors of the ONNX graph; without an axis it is 1 for rank 3 and more and "
            "the last one otherwise."
        ),
        show_default=False,
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1x3x224x224",
        help=(
            "Fix the symbolic sizes of an input; may be repeated. `?` leaves a size as it is, a name renames it. "
            "With commas, as in NAME=?,128, names may contain an x."
        ),
        show_default=False,
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1x3x224x224",
        help=(
            "Count FLOPs at these sizes of an input, without fixing them; may be repeated. By default a batch of 1, "
            "images of 224 x 224 and 128 for other open sizes, or the first others that the model accepts."
        ),
        show_default=False,
    ),
]
Signature = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which signature or function of a SavedModel to read; by default the serving signature.",
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        callback=_set_trust,
        help="Read a SavedModel that reaches files, Python or other machines; reading and verifying one runs it.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.0,
        callback=_set_timeout,
        help="End it after so many seconds, whatever it is doing; nothing is written then.",
        show_default=False,
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory",
        metavar="GB",
        min=0.0,
        callback=_set_memory,
        help="End it when it takes more than so many gigabytes of memory; nothing is written then.",
        show_default=False,
    ),
]
Rules = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.py",
        help="Python code with rules for custom operators; may be repeated.",
        show_default=False,
    ),
]
Adapting = Annotated[
    Adapters,
    typer.Option(
        help=(
            "Whether to restore constant channels at the operators that need them, with a Pad, Gather or Concat: where "
            "that is cheaper than computing them, wherever it saves FLOPs, or never."
        )
    ),
]
Targeting = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="RUNTIME",
        help=(
            "The runtime to optimize for: onnxruntime, openvino, cuda or tensorrt; any weighs ONNX Runtime and "
            "OpenVINO against each other."
        ),
    ),
]
Aligning = Annotated[
    str,
    typer.Option(
        "--align",
        metavar="none|N|auto|measure",
        help=(
            "Keep a few removable channels where that channel count suits the kernels: none, up to multiples of N, by "
            "a table for this processor (auto), or by timing each layer here (measure)."
        ),
    ),
]
AlignFor = Annotated[
    str | None,
    typer.Option(
        "--align-for",
        metavar="avx2|avx512|xeon|zen4|cuda",
        help="The processor that --align auto is for; by default this one.",
        show_default=False,
    ),
]
AlignSeconds = Annotated[
    float, typer.Option(metavar="SECONDS", help="How long --align measure may time layers; the times are cached.")
]
Reports = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE.html|FILE.json",
        help="Write a report as a page or as data; may be repeated.",
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        help="How many models to compile at a time; by default one per core.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Print only errors.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_set_verbose, help="Log each step and its time on stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
