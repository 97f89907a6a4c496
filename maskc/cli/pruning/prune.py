"""`maskc prune`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import command
from maskc.cli.output import console, print_error, print_json, warn
from maskc.pruning.options import PruneOptions


@command(rules=True)
def prune(
    model: shared.Model,
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR|FILE.py:FUNCTION",
            help="Inputs to prune by, without labels: an .npz file with an array for each input, samples along its "
            "first axis, an .npy file, a directory of them, or a Python function that gives dictionaries of arrays.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Where to write; by default beside the input."),
    ] = None,
    options: PruneOptions,
    verify: shared.Verify = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training of an interrupted run of the same command.")
    ] = False,
    as_json: shared.Json = False,
) -> None:
    """Prune a trained model, by data alone.

    Needs no masks, no labels and no training code: channels go that the others can best make up for on the data, the
    weights that are left are refitted, and, with --epochs or --minutes, trained towards the model's own outputs. A
    fifth of the data is held out, on which the result is compared with the source.

    Examples: maskc prune model.onnx --data inputs.npz --flops 0.5 -o small.onnx

    maskc prune model.onnx --data loader.py:batches --speedup 2 --minutes 30
    """
    from maskc.compilation.compile import default_output
    from maskc.pruning.prune import pruned_file

    if not verify:
        options = dataclasses.replace(options, verify=None)
    path = output or default_output(model).with_suffix("").with_suffix(".pruned.onnx")
    result = pruned_file(model, data, path, options, resume)
    warn(result.report.warnings)
    if as_json:
        print_json({**result.report.to_json(), **result.to_json()})
    else:
        from maskc.report.terminal import show_pruning

        document = result.report.document()
        measured = result.quality, result.loss, result.drop
        show_pruning(document, result.agreement, *measured, console(), alone=result.alone)
    if result.interrupted:
        print_error(f"Interrupted: {path} is the best so far, and the same command with --resume goes on.")
        raise typer.Exit(130)
