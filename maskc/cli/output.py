"""What commands print, and how much of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskc.report.bars import Volume
from maskc.report.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

#: how much the command at hand prints, by -q and -v
volume = Volume()


def warn(warnings: Sequence[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings if not volume.quiet else ():
        print(f"Warning: {visible(warning)}", file=sys.stderr)


def console() -> Console:
    """Where tables go: stdout, unless nothing is to be printed."""
    from maskc.report.terminal import console

    return console(quiet=volume.quiet)


def print_json(value: Any) -> None:
    """Print one object on a line of stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
