"""Escapes for control characters in names of nodes, tensors and files."""

from __future__ import annotations

import re

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
