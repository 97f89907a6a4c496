"""`maskc recheck`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.command import Without, command
from maskc.cli.output import console
from maskc.inspection.options import ReadOptions


@command()
def recheck(
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE",
            help="The reference: an .onnx, .keras or .h5 file or a SavedModel directory.",
            show_default=False,
        ),
    ],
    compiled: Annotated[
        Path, typer.Argument(metavar="COMPILED", help="The compiled model, an .onnx file.", show_default=False)
    ],
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="What --certificate wrote.", show_default=False)
    ],
    reading: Annotated[ReadOptions, Without("at")],
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of random values; by default that of the certificate.")
    ] = None,
) -> None:
    """Prove again, by a certificate, that two models are the same function.

    Nothing in the certificate is believed: the models are cut where it says,
    both sides of each region are run on random values, and each claim and
    each bound is checked. The exit code is 1 where that is refused. The file
    maskc/verification/recheck.py does the same without maskc, for ONNX files.

    Example: maskc recheck model.onnx small.onnx proof.json
    """
    from maskc.verification.recheck_models import recheck as run

    result = run(
        reference,
        compiled,
        certificate,
        signature=reading.signature,
        masks=reading.mask_file,
        shapes=reading.shapes,
        seed=seed,
    )
    console().print(f"Proved: {compiled} is the function of {reference}. {result}", markup=False, soft_wrap=True)
