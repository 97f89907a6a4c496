"""Termination signals as exceptions, so that files are closed and parts removed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from maskc.errors import Terminated

# What a system, a scheduler or a closed terminal sends; neither is there on Windows, or they mean nothing.
_TOLD = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


# Seconds that a process has to end when it is told to, and between two times that it is told.
_GRACE = 1.0
_AGAIN = 0.1


@contextmanager
def unwinding() -> Iterator[None]:
    """Let signals that end the process raise `Terminated` in the block.

    Signals that somebody ignores (`nohup`) or handles stay theirs. Nothing changes outside of the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    taken = [number for number in _TOLD if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    for other in _TOLD:
        if signal.getsignal(other) is _end:
            signal.signal(other, signal.SIG_IGN)  # what is closing is not to be told again
    raise Terminated(128 + number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let processes that are started in the block never hear of Ctrl-C, which is for the one that started them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have this process, one of `multiprocessing`, told to end when the one that started it is gone."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            deadline = time.monotonic() + _GRACE  # native code may not be interrupted
            while time.monotonic() < deadline:
                _tell_main_thread()  # again, because what is about to wait does not hear of it, only what waits
                time.sleep(_AGAIN)
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=wait, daemon=True).start()


def _tell_main_thread() -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
