"""Standard streams of the command: control characters escaped, closed pipes ignored."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from maskc.errors import visible_lines


class _Outliving:
    """A text stream that goes on, to nowhere, once nobody reads it, and shows control characters as escapes.

    Rich finds `rich_proxied_file`, where its own escape sequences are written as they are.
    """

    def __init__(self, stream: TextIO, *, formatted: bool = False) -> None:
        self._stream, self._formatted = stream, formatted

    @property
    def rich_proxied_file(self) -> _Outliving:
        return _Outliving(self._stream, formatted=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._unread():
            self._stream.write(text if self._formatted else visible_lines(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._unread():
            self._stream.flush()

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _to_nowhere(self._stream.fileno())  # what is buffered is written there when the interpreter ends


def fill_closed() -> None:
    """Let standard streams that are closed lead nowhere: the next file that is opened would be in their place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """Within, writing to stdout and stderr fails neither where a pipe is closed nor where they were closed before."""
    fill_closed()
    before = sys.stdout, sys.stderr
    now = [cast(TextIO, _Outliving(stream or open(os.devnull, "w", encoding="utf-8"))) for stream in before]  # noqa: SIM115, PTH123
    sys.stdout, sys.stderr = now
    try:
        yield
    finally:
        if sys.stdout is now[0]:
            sys.stdout = before[0] or now[0]
        sys.stderr = before[1] or now[1]


def _to_nowhere(number: int) -> None:
    """Let a file descriptor lead to the device that takes everything."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
