"""Supervision of the command, which runs in a second process and can be ended whatever native code it is in.

The first process stays small: it passes signals on, watches time and memory, and ends the other one where that does not
do so.
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
from pathlib import Path
from types import FrameType

from maskc import progress
from maskc.errors import FaultError, LimitError, MaskcError, StoppedError
from maskc.runtime import isolation

#: seconds that a process which is told to end has for it
GRACE = 0.75
# Seconds that it has where it says so, and for a file which it begins to write then: the checkpoint of a training run.
_WRITING = 60.0
# Seconds that a process whose end is certain is waited for: the system may take long to take back its memory.
_DYING = 0.3
# Seconds within which a second signal is the same one, told to a group of processes and to each of them.
_SAME = 0.3
# Seconds between two looks at the memory.
_LOOK = 0.05
# Seconds of one wait: the system refuses those of many years.
_LONGEST = 86_400.0
# What the second process tells the first one, a line each.
_TIMEOUT, _MEMORY, _MADE, _GONE = "timeout", "memory", "made", "gone"
_REPEAT, _TIME, _OVER = "repeat", "time", "over"
_TOLD = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

#: where the second process tells; None in a process that nobody supervises
_line: int | None = None


def is_possible() -> bool:
    """Whether processes can be split in two here, which they cannot on Windows."""
    return hasattr(os, "fork")


def limit(seconds: float) -> None:
    """Have this process ended so many seconds from now; nothing where nobody supervises it."""
    _tell(_TIMEOUT, str(seconds))


def can_watch_memory() -> bool:
    """Whether the system says how much memory a process takes, in a place that this knows."""
    return is_possible() and Path("/proc/self/statm").exists()


def limit_memory(gigabytes: float) -> None:
    """Have this process ended when it and those that it starts take more; nothing where nobody supervises it."""
    _tell(_MEMORY, str(gigabytes))


def repeat_after_crash() -> None:
    """Have this process started once more if native code ends it before it is over: what it does can be done twice."""
    _tell(_REPEAT, "")


def over() -> None:
    """Say that this process has told what it did, so that nobody needs to tell how it ended."""
    _tell(_OVER, "")


def supervised(run: Callable[[], None], told: Callable[[str, int], int]) -> None:
    """Call a function that ends the process in one that this one supervises, and end as that one does.

    After a crash, it is called once more, in a process that isolates what may crash. `told` is called with a sentence
    and an exit code where the process ends without a word, or takes too long, and gives the exit code. Where processes
    cannot be split in two the function is called in this one.
    """
    if not is_possible() or threading.active_count() > 1:
        run()
        return
    handlers = {number: signal.getsignal(number) for number in _TOLD}
    for isolation.suspected in (False, True):
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)  # until somebody hears of them
        ours, theirs = os.pipe()
        alive, living = os.pipe()
        process = os.fork()
        if not process:
            os.close(ours)
            os.close(living)
            signal.set_wakeup_fd(-1)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            _begin(theirs, alive)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            run()
            return
        os.close(theirs)
        os.close(alive)
        supervisor = _Supervisor(process, ours, unblocked)
        code = supervisor.wait()
        if isolation.suspected or not supervisor.may_repeat(code):
            sys.exit(supervisor.told(code, told))


def _begin(line: int, alive: int) -> None:
    """Set up the second process: it is told to end once, and ends with the first."""
    global _line
    _line = line
    progress.keeps_folders = lambda path, made: _tell(_MADE if made else _GONE, path)
    progress.gives_time = lambda: _tell(_TIME, "")
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
    """The first process's view of the second one."""

    def __init__(self, process: int, line: int, unblocked: set[signal.Signals | int]) -> None:
        self._process, self._line, self._unblocked = process, line, unblocked
        self._signal: int | None = None
        self._deadline: float | None = None
        self._began = 0.0  # when the signal came
        self._grace = GRACE
        self._limit = self._timeout = self._memory = self._exceeded = ""
        self._parts: dict[str, None] = {}
        self._heard = b""
        self._repeats = self._over = False

    def wait(self) -> int:
        """Wait for its end; returns its exit code, less than 0 for a signal."""
        woken, waking = os.pipe()
        os.set_blocking(waking, False)
        signal.set_wakeup_fd(waking)
        for number in _TOLD:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # its number is written to be read in its turn
        signal.pthread_sigmask(signal.SIG_SETMASK, self._unblocked)
        killed = self._watch(woken)
        ended, status = os.waitpid(self._process, os.WNOHANG if killed else 0)
        code = os.waitstatus_to_exitcode(status) if ended else -signal.SIGKILL
        if killed or code < 0:
            for folder in self._parts:
                shutil.rmtree(folder, ignore_errors=True)
        return code

    def may_repeat(self, code: int) -> bool:
        """Whether it ended by a crash of its own and can be done again."""
        return self._repeats and self._signal is None and isolation.is_crash(code)

    def told(self, code: int, told: Callable[[str, int], int]) -> int:
        """The exit code to end with, once it is told why where the process cannot have done so."""
        if error := self._error(code):
            return told(str(error), error.exit_code)
        return 128 + self._signal if self._signal is not None and code < 0 else code

    def _watch(self, woken: int) -> bool:
        """Wait for the end of the process, or end it when it takes too long or too much; whether it was killed."""
        killed = False
        while True:
            ready, _, _ = select.select([self._line, woken], [], [], self._time_left())
            lives = self._line not in ready or self._hear()  # first: it may have been told before the signal
            for number in os.read(woken, 64) if woken in ready else b"":
                self._pass_on(number)
            if not lives:
                return killed
            if self._memory and _taken(self._process) > float(self._memory) * 1e9:
                self._exceeded, self._memory, killed = self._memory, "", True
                self._deadline = time.monotonic() + _DYING
                self._kill(signal.SIGKILL)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                if killed:
                    return True
                killed = self._end()

    def _time_left(self) -> float:
        """Seconds until there may be something to do that neither the process nor a signal gives."""
        left = [] if self._deadline is None else [max(0.0, self._deadline - time.monotonic())]
        return min([*left, _LONGEST, *([_LOOK] if self._memory else [])])

    def _error(self, code: int) -> MaskcError | None:
        """Why it ended with this code, where it cannot have said so itself."""
        if self._exceeded and code != 0:
            return LimitError(f"It took more than {self._exceeded} GB of memory. Give it more with --memory.")
        if self._timeout and code != 0:
            return LimitError(f"It took more than {self._timeout} seconds. Give it more with --timeout.")
        if self._signal is not None:
            silent = not self._over and (code < 0 or code == 128 + self._signal)
            return StoppedError(self._signal) if silent else None
        if code < 0:
            name = signal.Signals(-code).name
            return FaultError(f"The process ended unexpectedly ({name}): it ran out of memory, or a library failed.")
        return None

    def _pass_on(self, number: int) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._began = number, now
            self._deadline = now + self._grace
            self._kill(number)
        elif now - self._began > _SAME:  # who tells it again will not wait
            self._deadline = now

    def _hear(self) -> bool:
        """Take note of what the process tells; False where it has ended."""
        data = os.read(self._line, 65536)
        *lines, self._heard = (self._heard + data).split(b"\0")
        for line in lines:
            what, _, value = os.fsdecode(line).partition(" ")
            if what == _MADE:
                self._parts[value] = None
                self._extend(_WRITING)
            elif what == _GONE:
                self._parts.pop(value, None)
                self._extend(self._grace)
            elif what == _TIME:
                self._grace = _WRITING
            elif what == _MEMORY:
                self._memory = value
            elif what == _REPEAT:
                self._repeats = True
            elif what == _OVER:
                self._over, self._repeats = True, False
            elif self._signal is None:
                self._limit, self._deadline = value, time.monotonic() + float(value)
        return bool(data)

    def _extend(self, seconds: float) -> None:
        """Give the process more time, if it was told to end by a signal."""
        if self._signal is not None and self._deadline is not None:
            self._deadline = time.monotonic() + seconds

    def _end(self) -> bool:
        """End the process: first it is told to, then there is no choice; whether it was that."""
        if self._signal is None and not self._timeout:
            self._timeout = self._limit
            self._deadline = time.monotonic() + self._grace
            self._kill(signal.SIGTERM)
            return False
        self._deadline = time.monotonic() + _DYING
        self._kill(signal.SIGKILL)
        return True

    def _kill(self, number: int) -> None:
        """Tell the process; what ends it without being told ends those that it started too."""
        for process in _family(self._process) if number == signal.SIGKILL else [self._process]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def _family(process: int) -> list[int]:
    """A process and those that it started, and they, as far as the system tells."""
    found = [process]
    with contextlib.suppress(OSError):  # one that has just ended, or another system than Linux
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += _family(int(child))
    return found


def _taken(process: int) -> int:
    """Bytes of memory that a process and those that it started take now."""
    pages = 0
    for each in _family(process):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
