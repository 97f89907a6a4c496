"""Text in a terminal: control characters escaped in names, and messages broken between words."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TextIO

# C0 and C1 controls, what turns the direction of writing or breaks lines in Unicode, and bytes that are not UTF-8.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""One line, with control characters as Python writes them: `\x1b`, `\n`, `\u202e`. Twice is as once."""
    return _CONTROL.sub(_escape, text)


def visible_lines(text: str) -> str:
    """As `visible`, for a text of several lines and columns: newlines and tabs stay."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in "\n\t" else _escape(match), text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # the byte of a file name that Python could not decode
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(match[0], f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


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
