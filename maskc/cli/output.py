"""Console output of commands, by `--quiet` and `--verbose`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from maskc.errors import visible, visible_lines
from maskc.report.bars import Volume
from maskc.report.word_wrap import told

if TYPE_CHECKING:
    from maskc.report.visible_console import VisibleConsole

#: how much the command at hand prints, by -q and -v
volume = Volume()

_alone: list[TextIO] = []


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


@contextlib.contextmanager
def alone_on_stdout() -> Iterator[None]:
    """Within, what others print, as a user's loader, goes to stderr: only `write` and `print_json` have stdout."""
    _alone.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _alone.pop()


def write(text: str) -> None:
    """Write text for other programs to stdout."""
    (_alone[-1] if _alone else sys.stdout).write(text)


def print_json(value: Any) -> None:
    """Print one object on a line of stdout."""
    write(json.dumps(value, allow_nan=False) + "\n")
