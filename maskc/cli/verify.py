"""`maskc verify`, and `maskc recheck`, which follows a certificate that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import Without, command
from maskc.cli.output import console, print_error, print_json, volume
from maskc.errors import NotEquivalentError, UndecidedError
from maskc.inspection.options import ReadOptions
from maskc.verification.options import VerifyOptions

_Reference = Annotated[
    Path,
    typer.Argument(
        metavar="REFERENCE",
        help="The reference: an .onnx, .keras or .h5 file or a SavedModel directory.",
        show_default=False,
    ),
]
_Compiled = Annotated[
    Path, typer.Argument(metavar="COMPILED", help="The compiled model, an .onnx file.", show_default=False)
]


@command(rules=True)
def verify(
    reference: _Reference,
    compiled: _Compiled,
    reading: ReadOptions,
    options: VerifyOptions,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Real data to compare on as well, by input name: a file or a directory of files."
        ),
    ] = None,
    certificate: shared.Certificate = None,
    report: shared.Reports = None,
    as_json: shared.Json = False,
) -> None:
    """Check numerically that the outputs of two models match.

    The models are cut into regions, mostly of one node, and each region is
    run on random values of its own: if all agree, so do the models. Then both
    are run in ONNX Runtime, or on --provider, on the same inputs of several
    kinds and batch sizes, and their outputs are compared. If the reference is
    a TensorFlow model, TensorFlow's own outputs are compared too. If the
    models differ, the first tensor that differs is named, with the node that
    computes it. If some region cannot be compared, the exit code is 4.

    Example: maskc verify model_dir model_dir.compiled.onnx --min-reduction 4
    """
    from maskc.verification.verify import verify_with

    result = verify_with(
        reference, compiled, reading, options, inputs=inputs, reports=report or (), certificate=certificate
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


@command(rules=True)
def recheck(
    reference: _Reference,
    compiled: _Compiled,
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="What --certificate wrote.", show_default=False)
    ],
    reading: Annotated[ReadOptions, Without("at")],
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of random values; by default that of the certificate.")
    ] = None,
) -> None:
    """Prove by a certificate that two models are the same.

    Nothing in the certificate is believed: the models are cut where it says,
    both sides of each region are run on random values, and each claim and
    each bound is checked. The exit code is 1 where that is refused. The file
    maskc/verification/recheck.py does the same without maskc, for ONNX files.

    Example: maskc recheck model.onnx small.onnx proof.json
    """
    from maskc.verification.verify import recheck as run

    result = run(
        reference,
        compiled,
        certificate,
        signature=reading.signature,
        masks=reading.mask_file,
        shapes=reading.shapes,
        seed=seed,
    )
    console().print(f"Proved: {compiled} is the function of {reference}. {result}", soft_wrap=True)
