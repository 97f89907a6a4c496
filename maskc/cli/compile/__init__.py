"""`maskc compile`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import command
from maskc.cli.compile import to_tensorflow
from maskc.cli.compile.to_tensorflow import TensorFlowOptions
from maskc.cli.output import console, print_error, print_json, volume, warn
from maskc.compilation.options import CompileOptions

if TYPE_CHECKING:
    from maskc.compilation.batch import BatchOutcome


@command()
def compile(
    context: typer.Context,
    models: shared.Models,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT|DIR",
            help=(
                "Where to write; for several models, a directory, which is made. By default beside the input, under "
                "its name with .compiled.onnx. A name that ends with .keras or .tflite asks for that format."
            ),
        ),
    ] = None,
    tensorflow: TensorFlowOptions,
    options: CompileOptions,
    verify: shared.Verify = True,
    certificate: shared.Certificate = None,
    report: shared.Reports = None,
    bench: Annotated[
        bool | None,
        typer.Option(
            "--bench/--no-bench",
            help="Measure the latency of both on the CPU, which takes seconds. By default for an .html report.",
        ),
    ] = None,
    rules: shared.Rules = None,
    jobs: shared.Jobs = None,
    as_json: shared.Json = False,
) -> None:
    """Compile a masked model into an equivalent smaller dense one.

    Masks are found by their zeros: in multiplications, folded into weights, or
    as filters that training drove to zero. The result is compared with the
    input in ONNX Runtime (and with TensorFlow, if the input is a TensorFlow
    model), and nothing is written if the outputs differ.

    Several models are compiled side by side, each in a process of its own,
    and one that fails does not affect the others. The exit code is the highest of
    theirs.

    Examples: maskc compile model_dir -o small.onnx

    maskc compile models/*.onnx -o small --jobs 4

    maskc compile model.keras -o small.keras
    """
    if tensorflow.chosen(output) != "onnx":
        to_tensorflow.run(context, models, output, tensorflow, verify=verify, as_json=as_json)
        return
    from maskc.compilation.compile import compile_file, default_output
    from maskc.frontend.custom_rules import load

    if not verify:
        options = dataclasses.replace(options, verify=None)
    if len(models) > 1:
        if options.masks or report or bench or certificate:
            alone = "--masks, --certificate, --report and --bench"
            raise typer.BadParameter(f"{alone} are for one model; compile it alone.")
        from maskc.compilation import batch

        outcomes = batch.compile_files(models, output, options, jobs=jobs, rules=rules or ())
        raise typer.Exit(_show(outcomes, models, as_json))
    load(rules or ())
    model = models[0]
    result = compile_file(
        model,
        output or default_output(model),
        options,
        certificate=certificate,
        reports=report or (),
        bench=bench,
        advises=volume.verbose,
    )
    warn(result.warnings)
    if as_json:
        print_json(result.to_json())
        return
    from maskc.report.terminal import show_compilation, show_reports

    show_compilation(result.document(), console(), masks=options.masks is not None, lists=volume.verbose)
    show_reports(report or (), console())


def _show(outcomes: Iterable[BatchOutcome], models: Sequence[Path], as_json: bool) -> int:
    """Print the result of each model as it is done, and of all at the end; returns the exit code."""
    from maskc.compilation import batch
    from maskc.compilation import batch_table as report

    out, done = console(), []
    for outcome in outcomes:
        done.append(outcome)
        if outcome.report is not None:
            warn([f"{outcome.model}: {warning}" for warning in outcome.report.warnings])
            if not as_json:
                report.show_one(outcome, out)
        else:
            print_error(f"Error: {outcome.told}")
    code = batch.exit_code(done)
    done.sort(key=lambda outcome: models.index(outcome.model))
    if as_json:
        print_json({"models": [outcome.to_json() for outcome in done], "exit_code": code})
    else:
        report.show_all(done, out)
    return code
