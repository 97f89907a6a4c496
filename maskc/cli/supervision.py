"""The command in a process of its own, which can be ended whatever native code it is in, and whose end is always told.

The first process stays small: it passes signals on, counts the time, and ends the other one where that does not do so.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from maskc import progress

#: seconds that a process which is told to end has for it
GRACE = 1.0
# What the second process tells the first one, a line each.
_TIMEOUT, _MADE, _GONE = "timeout", "made", "gone"
_TOLD = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

#: where the second process tells; None in a process that nobody supervises
_line: int | None = None


def is_possible() -> bool:
    """Whether processes can be split in two here, which they cannot on Windows."""
    return hasattr(os, "fork")


def limit(seconds: float) -> None:
    """Have this process ended so many seconds from now; nothing where nobody supervises it."""
    _tell(_TIMEOUT, str(seconds))


def supervised(run: Callable[[], None], told: Callable[[str, int], int]) -> None:
    """Call a function that ends the process in one that this one supervises, and end as that one does.

    `told` is called with a sentence and an exit code where the process ends without a word, or takes too long, and
    gives the exit code. Where processes cannot be split in two the function is called in this one.
    """
    if not is_possible() or threading.active_count() > 1:
        run()
        return
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)  # until somebody hears of them
    ours, theirs = os.pipe()
    alive, living = os.pipe()
    process = os.fork()
    if process:
        os.close(theirs)
        os.close(alive)
        sys.exit(_Supervisor(process, ours, unblocked).code(told))
    os.close(ours)
    os.close(living)
    _begin(theirs, alive)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    run()


def _begin(line: int, alive: int) -> None:
    """Set up the second process: it is told to end once, and ends with the first."""
    global _line
    _line = line
    progress.keeps_folders = lambda path, made: _tell(_MADE if made else _GONE, path)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)

    def end_with_the_first() -> None:
        os.read(alive, 1)  # nothing is written there, and it is closed by the end of the first process
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_the_first, name="supervision", daemon=True).start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a terminal tells both processes, and the first one tells this one again
    raise KeyboardInterrupt


def _tell(what: str, value: str) -> None:
    if _line is not None:
        with contextlib.suppress(OSError):
            os.write(_line, f"{what} {value}\0".encode(errors="surrogateescape"))


class _Supervisor:
    """What the first process knows of the second one."""

    def __init__(self, process: int, line: int, unblocked: set[signal.Signals | int]) -> None:
        self._process, self._line, self._unblocked = process, line, unblocked
        self._signal: int | None = None
        self._deadline: float | None = None
        self._limit = self._timeout = ""
        self._parts: dict[str, None] = {}
        self._heard = b""

    def code(self, told: Callable[[str, int], int]) -> int:
        """Wait for its end; returns the exit code to end with."""
        woken, waking = os.pipe()
        os.set_blocking(waking, False)
        signal.set_wakeup_fd(waking)
        for number in _TOLD:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._unblocked)
        killed = False
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            ready, _, _ = select.select([self._line, woken], [], [], left)
            if woken in ready:
                os.read(woken, 64)
            if self._line in ready and not self._hear():
                break
            if self._deadline is not None and time.monotonic() >= self._deadline:
                killed = self._end()
        _, status = os.waitpid(self._process, 0)
        code = os.waitstatus_to_exitcode(status)
        if killed or code < 0:
            for folder in self._parts:
                shutil.rmtree(folder, ignore_errors=True)
        if self._timeout and code != 0:
            return told(f"It took more than {self._timeout} seconds, and was ended. Give it more with --timeout.", 2)
        if self._signal is not None and code < 0:
            return 128 + self._signal
        if code < 0:
            name = signal.Signals(-code).name
            return told(f"The process ended unexpectedly ({name}): it ran out of memory, or a library failed.", 2)
        return code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number
            self._deadline = time.monotonic() + GRACE
            self._kill(number)

    def _hear(self) -> bool:
        """Take note of what the process tells; False where it has ended."""
        data = os.read(self._line, 65536)
        *lines, self._heard = (self._heard + data).split(b"\0")
        for line in lines:
            what, _, value = os.fsdecode(line).partition(" ")
            if what == _MADE:
                self._parts[value] = None
            elif what == _GONE:
                self._parts.pop(value, None)
            elif self._signal is None:
                self._limit, self._deadline = value, time.monotonic() + float(value)
        return bool(data)

    def _end(self) -> bool:
        """End the process: first it is told to, then there is no choice; whether it was that."""
        if self._signal is None and not self._timeout:
            self._timeout = self._limit
            self._deadline = time.monotonic() + GRACE
            self._kill(signal.SIGTERM)
            return False
        self._deadline = None
        self._kill(signal.SIGKILL)
        return True

    def _kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, number)
