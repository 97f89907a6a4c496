"""`maskc compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.application import EXIT_CODES, app
from maskc.cli.options import Adapters, Adapting, Debug, Json, Masks, Model, Quiet, Reports, Rules, Shape, Verbose
from maskc.cli.output import console, print_json, warn


@app.command(epilog=EXIT_CODES)
def compile(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.onnx",
            help="Where to write. By default beside the input, under its name with .compiled.onnx.",
            show_default=False,
        ),
    ] = None,
    masks: Masks = None,
    shape: Shape = None,
    adapters: Adapting = Adapters.auto,
    rules: Rules = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with the input before anything is written.")
    ] = True,
    report: Reports = None,
    bench: Annotated[
        bool | None,
        typer.Option(
            "--bench/--no-bench",
            help="Measure the latency of both on the CPU, which takes seconds. By default for an .html report.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compile a model with masked channels into a smaller one that computes the same function.

    Masks are found by their zeros, wherever they are: as multiplications,
    folded into weights, or as filters that training drove to zero. The result
    is compared with the input in ONNX Runtime (and with TensorFlow, if the
    input is a TensorFlow model), and nothing is written if they differ.

    Example: maskc compile model_dir -o small.onnx
    """
    from maskc.compiler import compile_file, default_output
    from maskc.rules import load
    from maskc.sizes import parse

    load(rules or ())
    target = output or default_output(model)
    result = compile_file(
        model,
        target,
        masks,
        shapes=parse(shape or ()),
        adapters=adapters.value,
        verify=verify,
        reports=report or (),
        bench=bench,
    )
    warn(result.warnings)
    if as_json:
        print_json(result.to_json())
        return
    from maskc.report.terminal import show_compilation, show_reports

    show_compilation(result, console())
    show_reports(report or (), console())
