"""`maskc demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.command import command
from maskc.cli.output import console


@command(limits=False)
def demo(
    directory: Annotated[
        Path, typer.Option("--directory", "-d", metavar="DIR", help="Where to write the models.")
    ] = Path("demo"),
) -> None:
    """Train, prune, compile and verify a small network on real data.

    Needs maskc[demo]. Takes a few minutes on two cores.
    """
    from maskc.cli.demo.run import run, show

    show(run(directory), console())
