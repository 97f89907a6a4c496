"""`maskc compile`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskc.cli import shared_options as option
from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console, print_json, volume, warn

if TYPE_CHECKING:
    from maskc.compilation.batch import Outcome


@app.command(epilog=EXIT_CODES)
def compile(
    models: option.Models,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.onnx|DIR",
            help=(
                "Where to write; for several models, a directory, which is made. By default beside the input, under "
                "its name with .compiled.onnx."
            ),
            show_default=False,
        ),
    ] = None,
    masks: option.Masks = None,
    shape: option.Shape = None,
    at: option.At = None,
    signature: option.Signature = None,
    target: option.Targeting = "any",
    adapters: option.Adapting = option.Adapters.auto,
    align: option.Aligning = "auto",
    align_for: option.AlignFor = None,
    align_seconds: option.AlignSeconds = 30.0,
    rules: option.Rules = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with the input before anything is written.")
    ] = True,
    report: option.Reports = None,
    bench: Annotated[
        bool | None,
        typer.Option(
            "--bench/--no-bench",
            help="Measure the latency of both on the CPU, which takes seconds. By default for an .html report.",
            show_default=False,
        ),
    ] = None,
    jobs: option.Jobs = None,
    as_json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = False,
    debug: option.Debug = False,
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
    """
    from maskc.compilation.compile import compile_file, default_output
    from maskc.compilation.options import VERIFY, CompileOptions, parse_align
    from maskc.frontend.custom_rules import load
    from maskc.frontend.input_sizes import parse, parse_at

    options = CompileOptions(
        masks,
        parse(shape or ()),
        adapters.value,
        parse_align(align),
        align_for,
        align_seconds,
        VERIFY if verify else None,
        parse_at(at or ()),
        signature,
        target,
    )
    if len(models) > 1:
        if masks or report or bench:
            raise typer.BadParameter("--masks, --report and --bench are for one model; compile it alone.")
        from maskc.compilation import batch

        outcomes = batch.compile_files(models, output, options, jobs=jobs, rules=rules or ())
        raise typer.Exit(_show(outcomes, models, as_json))
    load(rules or ())
    model = models[0]
    result = compile_file(model, output or default_output(model), options, reports=report or (), bench=bench)
    warn(result.warnings)
    if as_json:
        print_json(result.to_json())
        return
    from maskc.report.terminal import show_compilation, show_reports

    show_compilation(result.document(), console(), masks=masks is not None, lists=volume.verbose)
    show_reports(report or (), console())


def _show(outcomes: Iterable[Outcome], models: Sequence[Path], as_json: bool) -> int:
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
            print(f"Error: {outcome.told}", file=sys.stderr)
    code = batch.exit_code(done)
    done.sort(key=lambda outcome: models.index(outcome.model))
    if as_json:
        print_json({"models": [outcome.to_json() for outcome in done], "exit_code": code})
    else:
        report.show_all(done, out)
    return code
