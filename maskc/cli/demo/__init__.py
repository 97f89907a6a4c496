"""`maskc demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console
from maskc.cli.shared_options import Debug, Quiet, Verbose


@app.command(epilog=EXIT_CODES)
def demo(
    directory: Annotated[
        Path, typer.Option("--directory", "-d", metavar="DIR", help="Where to write the models.")
    ] = Path("demo"),
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train, prune, compile and verify a small network on real data.

    Needs maskc[demo]. Takes a few minutes on two cores.
    """
    from maskc.cli.demo.run import run, show

    show(run(directory), console())
