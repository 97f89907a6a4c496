"""Errors that a user can act on, each with the exit code of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class MaskcError(Exception):
    """Base of all errors that maskc raises on purpose; the message is one or two plain sentences."""

    exit_code = 2


class InputError(MaskcError):
    """The model, the masks or the arguments cannot be used (exit code 2)."""


class NotEquivalentError(MaskcError):
    """The compiled model is not the same function, or saves less than was asked (exit code 1)."""

    exit_code = 1


class UndecidedError(MaskcError):
    """No difference shows, and none would, as outputs hardly move (exit code 4)."""

    exit_code = 4


class FaultError(MaskcError):
    """maskc or a library has a fault: it failed in a way that was not expected, or crashed (exit code 5)."""

    exit_code = 5


class LimitError(MaskcError):
    """More time or memory was needed than was allowed (exit code 6)."""

    exit_code = 6


class UnavailableError(MaskcError):
    """Something that is not installed or not usable here is needed (exit code 3)."""

    exit_code = 3


class RunError(InputError):
    """A runtime cannot load a model, or cannot run it on the inputs it was given (exit code 2)."""


class NotComparableError(InputError):
    """The reference runs on no input that could be made for it, so nothing can be compared (exit code 2)."""


class CrashError(NotComparableError):
    """A runtime crashes at what it is given (exit code 2)."""


class StoppedError(MaskcError):
    """Somebody ended the work by a signal of this number (exit code 128 and the number)."""

    def __init__(self, number: int) -> None:
        super().__init__("Interrupted.")
        self.exit_code = 128 + number


class Terminated(SystemExit):
    """The process is told to end by a signal; `code` is the exit code that shells give for it."""


class InstallationWarning(UserWarning):
    """Libraries are installed in a way that breaks them sooner or later."""


class PruningWarning(UserWarning):
    """Pruning does not come as far as it was told to, or has nothing to do."""


@contextmanager
def telling() -> Iterator[None]:
    """A context, and a decorator, in which what any input may run into, wherever that is, becomes an `InputError`."""
    try:
        yield
    except MemoryError as error:
        why = str(error).rstrip(".")
        raise InputError(f"There is not enough memory{f' ({why})' if why else ''}.") from error
    except RecursionError as error:
        raise InputError("The input is nested too deeply to be read.") from error
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # what pathlib says before Python 3.13
            raise
        raise InputError(f"A path leads nowhere: {error}.") from error
    except OSError as error:
        if error.filename is None:  # of streams, and of other than files
            raise
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
        name = name if len(name) <= 100 else f"{name[:100]}..."
        raise InputError(f"{name} cannot be read or written: {error.strerror or error}.") from error
