"""Word wrap of messages in a terminal; in files and pipes a message is one line."""

from __future__ import annotations

import os
import textwrap
from typing import TextIO


def told(text: str, stream: TextIO) -> None:
    """Print lines on a stream, in a terminal with breaks between words."""
    print(fitted(text, _columns(stream)) if stream.isatty() else text, file=stream)


def _columns(stream: TextIO) -> int:
    """The width of a terminal."""
    said = os.environ.get("COLUMNS", "")
    return int(said) if said.isdecimal() and int(said) else os.get_terminal_size(stream.fileno()).columns or 80


def fitted(text: str, width: int) -> str:
    """The text with breaks between words only, lines that follow indented; a word wider than that has its own line."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        parts = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += parts or [""]
    return "\n".join(lines)
