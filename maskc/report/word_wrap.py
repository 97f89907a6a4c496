"""Sentences that break between words in a terminal; into files and pipes they go on one line, for other programs."""

from __future__ import annotations

import textwrap


def fitted(text: str, width: int) -> str:
    """The text with breaks between words only, lines that follow indented; a word wider than that has its own line."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        parts = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += parts or [""]
    return "\n".join(lines)
