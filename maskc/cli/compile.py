"""`maskc compile`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskc.cli import shared_options as option
from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console, print_error, print_json, volume, warn

if TYPE_CHECKING:
    from maskc.compilation.batch import Outcome


class Quantize(StrEnum):
    """How a TFLite model stores numbers."""

    none = "none"
    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"


class Format(StrEnum):
    """What can be written."""

    onnx = "onnx"
    keras = "keras"
    saved_model = "saved_model"
    tflite = "tflite"


# The options that mean something where no ONNX is written.
_FOR_TENSORFLOW = {"models", "output", "format", "quantize", "data", "verify", "as_json", "trust", "timeout", "memory"}
_FOR_TENSORFLOW |= {"quiet", "verbose", "debug"}


@app.command(epilog=EXIT_CODES)
def compile(
    context: typer.Context,
    models: option.Models,
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
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            metavar="FORMAT",
            help=(
                "What to write: onnx, keras, saved_model or tflite; by default what the name after -o asks for, else "
                "ONNX. The others need a .keras file, and keep its layers and their names."
            ),
            show_default=False,
        ),
    ] = None,
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            metavar="HOW",
            help=(
                "Of .tflite: float16 weights, dynamic (weights in 8 bits), or int8 (activations as well, with --data)."
            ),
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Examples that int8 measures ranges on, an array for each input.",
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
    trust: option.Trust = False,
    timeout: option.Timeout = None,
    memory: option.Memory = None,
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

    maskc compile model.keras -o small.keras
    """
    chosen = format or (Format(output.suffix[1:]) if output and output.suffix in (".keras", ".tflite") else Format.onnx)
    if chosen is Format.onnx and (quantize or data):
        raise typer.BadParameter("--quantize and --data are for .tflite.")
    if chosen is not Format.onnx:
        _compile_to_tensorflow(context, models, output, chosen)
        return
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
    result = compile_file(
        model, output or default_output(model), options, reports=report or (), bench=bench, advises=volume.verbose
    )
    warn(result.warnings)
    if as_json:
        print_json(result.to_json())
        return
    from maskc.report.terminal import show_compilation, show_reports

    show_compilation(result.document(), console(), masks=masks is not None, lists=volume.verbose)
    show_reports(report or (), console())


def _compile_to_tensorflow(context: typer.Context, models: Sequence[Path], output: Path | None, format: Format) -> None:
    """Write the smaller Keras model of one with masks, in one of TensorFlow's formats."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    foreign = [name for name in given if name not in _FOR_TENSORFLOW]
    if foreign:
        raise typer.BadParameter(f"--{foreign[0].replace('_', '-')} is for ONNX only, and not for --format {format}.")
    if len(models) > 1 or output is None:
        raise typer.BadParameter(f"--format {format} takes one model, and needs -o with what to write.")
    from maskc.frontend.tensorflow.importing import import_tensorflow

    import_tensorflow()
    from maskc.report.terminal import show_smaller
    from maskc.train.shrinking.write import compile_to

    verify = context.params["verify"]
    quantize, data = context.params["quantize"], context.params["data"]
    if format is not Format.tflite and (quantize or data):
        raise typer.BadParameter("--quantize and --data are for .tflite.")
    if (quantize is Quantize.int8) != (data is not None):
        raise typer.BadParameter("--quantize int8 needs examples in --data, and nothing else does.")
    found = compile_to(models[0], output, format.value, verify, quantize.value if quantize else "none", data)
    if context.params["as_json"]:
        print_json({"model": str(models[0]), "output": str(output), "format": format.value, **found.to_json()})
    else:
        out = console()
        show_smaller(models[0], output, found.before, found.after, out)
        if verify:
            out.print("Verified in TensorFlow: the outputs match.")
        if found.run is not None:
            out.print(
                f"In TFLite, one thread: {found.run.before:.3g} ms before, {found.run.after:.3g} ms now; outputs "
                f"within {found.run.error:.1e} of their scale.",
                soft_wrap=True,
            )


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
            print_error(f"Error: {outcome.told}")
    code = batch.exit_code(done)
    done.sort(key=lambda outcome: models.index(outcome.model))
    if as_json:
        print_json({"models": [outcome.to_json() for outcome in done], "exit_code": code})
    else:
        report.show_all(done, out)
    return code
