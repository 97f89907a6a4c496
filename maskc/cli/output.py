"""Console output of commands, by `--quiet` and `--verbose`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskc.errors import visible, visible_lines
from maskc.report.bars import Volume
from maskc.report.word_wrap import told

if TYPE_CHECKING:
    from maskc.report.visible_console import VisibleConsole

#: how much the command at hand prints, by -q and -v
volume = Volume()


def print_error(text: str) -> None:
    """Print a message on stderr, in a terminal with breaks between words."""
    if sys.stderr is not None:
        told(visible_lines(text), sys.stderr)


def warn(warnings: Sequence[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings if not volume.quiet else ():
        print_error(f"Warning: {visible(warning)}")


def console() -> VisibleConsole:
    """The console of tables: stdout, unless nothing is to be printed. What goes into a pipe is not shortened."""
    from maskc.report.terminal import PIPE_WIDTH
    from maskc.report.visible_console import VisibleConsole

    plain = VisibleConsole(quiet=volume.quiet)
    return plain if plain.is_terminal else VisibleConsole(quiet=volume.quiet, width=max(plain.width, PIPE_WIDTH))


def print_json(value: Any) -> None:
    """Print one object on a line of stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
