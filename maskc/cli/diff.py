"""`maskc diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import Without, command
from maskc.cli.output import console, print_json
from maskc.inspection.options import ReadOptions


@command(rules=True)
def diff(
    before: Annotated[
        Path,
        typer.Argument(metavar="A", help="An .onnx, .keras or .h5 file or a SavedModel directory.", show_default=False),
    ],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one of these.", show_default=False)],
    *,
    every: Annotated[bool, typer.Option("--all", help="Show unchanged layers, too; --json always has them.")] = False,
    options: Annotated[ReadOptions, Without("masks")],
    as_json: shared.Json = False,
) -> None:
    """Compare two models layer by layer.

    Shows channels, FLOPs, parameters, and what else differs. A layer is a node
    that multiplies and accumulates. Layers are matched by the names of their
    nodes, and where the names differ by order and similarity. Nothing is run or
    compiled; use verify to compare outputs. The exit code is 0 whether the
    models differ or not.

    Example: maskc diff model.onnx model.compiled.onnx
    """
    from maskc.inspection.diff import diff as run

    result = run(before, after, shapes=options.shapes, at=options.at, signature=options.signature)
    if as_json:
        print_json(result.to_json())
        return
    from maskc.report.terminal import show_diff

    show_diff(result, console(), every)
