"""A process in a terminal of its own, and what is on the screen at its end."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from tests.maskc.command import ROOT

_CODE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


def in_terminal(code: str, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run Python code with stdout and stderr in a terminal; the exit code, and all that it wrote there."""
    ours, theirs = pty.openpty()
    wide = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | wide | environment,
        cwd=Path("/"),
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not some:
            break
        written += some
    os.close(ours)
    return process.wait(timeout=300), written.decode()


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after this, as far as rich's control sequences go."""
    lines, row, column, position = [""], 0, 0, 0
    while position < len(written):
        match = _CODE.match(written, position)
        if match:
            count, letter = match.groups()
            steps = int(count) if count.isdecimal() else 1
            if letter == "A":
                row = max(0, row - steps)
            elif letter == "K":
                lines[row] = "" if count == "2" else lines[row][:column]
            elif letter not in "mhl":
                raise ValueError(f"unknown control sequence {match.group()!r}")
            position = match.end()
            continue
        sign = written[position]
        if sign == "\r":
            column = 0
        elif sign == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
            column += 1
        position += 1
    return [line.rstrip() for line in lines]
