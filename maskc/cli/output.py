"""What commands print, and how much of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskc.report.bars import Volume
from maskc.report.visible import visible, visible_lines
from maskc.report.word_wrap import fitted

if TYPE_CHECKING:
    from rich.console import Console

#: how much the command at hand prints, by -q and -v
volume = Volume()


def print_error(text: str) -> None:
    """Print a message on stderr, in a terminal with breaks between words."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    shown = visible_lines(text)
    print(fitted(shown, _columns()) if terminal else shown, file=sys.stderr)


def _columns() -> int:
    """How wide the terminal of stderr is."""
    said = os.environ.get("COLUMNS", "")
    return int(said) if said.isdecimal() and int(said) else os.get_terminal_size(sys.stderr.fileno()).columns or 80


def warn(warnings: Sequence[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings if not volume.quiet else ():
        print_error(f"Warning: {visible(warning)}")


def console() -> Console:
    """Where tables go: stdout, unless nothing is to be printed."""
    from maskc.report.terminal import console

    return console(quiet=volume.quiet)


def print_json(value: Any) -> None:
    """Print one object on a line of stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
