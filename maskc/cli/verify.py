"""`maskc verify`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console, print_error, print_json, volume
from maskc.cli.shared_options import (
    At,
    Debug,
    Json,
    Masks,
    Memory,
    Quiet,
    Reports,
    Shape,
    Signature,
    Timeout,
    Trust,
    Verbose,
)
from maskc.errors import NotEquivalentError, UndecidedError


class Provider(StrEnum):
    """What runs the models, and where."""

    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    openvino = "openvino"
    auto = "auto"


@app.command(epilog=EXIT_CODES)
def verify(
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE",
            help="The reference: an .onnx, .keras or .h5 file or a SavedModel directory.",
            show_default=False,
        ),
    ],
    compiled: Annotated[
        Path,
        typer.Argument(metavar="COMPILED", help="The compiled model, an .onnx file.", show_default=False),
    ],
    masks: Masks = None,
    shape: Shape = None,
    at: At = None,
    signature: Signature = None,
    provider: Annotated[
        Provider,
        typer.Option(
            help=(
                "Where to run: ONNX Runtime on the CPU, CUDA or TensorRT (without fallback), OpenVINO on the CPU, or "
                "auto: CUDA if it is usable, else the CPU."
            )
        ),
    ] = Provider.cpu,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Real data to compare on as well, by input name: a file or a directory of files.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="How many random inputs to compare on.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random inputs.")] = 0,
    rtol: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help=(
                "Relative tolerance, as a share of the largest value of the output. By default 8 ulp × √depth, at most "
                "1e-5, or 1e-12 if all is float64 and 1e-3 if any is half precision; ten times that against "
                "TensorFlow."
            ),
            show_default=False,
        ),
    ] = None,
    atol: Annotated[float, typer.Option(metavar="F", help="Absolute tolerance.")] = 0.0,
    min_reduction: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Fail when FLOPs before divided by FLOPs after is less than this.",
            show_default=False,
        ),
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--no-exact",
            help=(
                "Compare in double precision as well, in the ONNX reference evaluator, where rounding does not hide "
                "errors of logic. By default if that takes no more than a few seconds."
            ),
            show_default=False,
        ),
    ] = None,
    dump: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="If the models differ, write the smallest subgraphs that do, and an input, to this directory.",
            show_default=False,
        ),
    ] = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure the latency of both, side by side, on the provider.")
    ] = False,
    report: Reports = None,
    trust: Trust = False,
    timeout: Timeout = None,
    memory: Memory = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Check numerically that the outputs of two models match.

    Both models are run in ONNX Runtime, or on --provider, on the same random
    inputs of several kinds and batch sizes, and all outputs are compared. If
    the reference is a TensorFlow model, TensorFlow's own outputs are compared
    too. An error above the tolerance is accepted only within the model's own
    rounding noise, and the result says so. If the models differ, the first
    tensor that differs is named, with the node that computes it. If outputs
    hardly move, tensors inside the models are compared; if these settle
    nothing either, the exit code is 4.

    Example: maskc verify model_dir model_dir.compiled.onnx --min-reduction 4
    """
    from maskc.frontend.input_sizes import parse, parse_at
    from maskc.verification.verify import verify as run

    result = run(
        reference,
        compiled,
        masks=masks,
        shapes=parse(shape or ()),
        at=parse_at(at or ()),
        signature=signature,
        provider=provider.value,
        inputs=inputs,
        samples=samples,
        seed=seed,
        rtol=rtol,
        atol=atol,
        min_reduction=min_reduction,
        exact=exact,
        dump=dump,
        bench=bench,
        reports=report or (),
    )
    if as_json:
        print_json(result.to_json())
    else:
        from maskc.report.terminal import show_reports, show_verification

        show_verification(result, console())
        show_reports(report or (), console())
    if not result.passed:
        if as_json or volume.quiet:
            print_error(f"Error: {(*result.reasons, *result.undecided)[0]}")
        raise typer.Exit(NotEquivalentError.exit_code if result.reasons else UndecidedError.exit_code)
