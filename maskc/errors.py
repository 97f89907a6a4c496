"""Errors that a user can act on, each with the exit code of the command line, and how names are shown in messages."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# C0 and C1 controls, what turns the direction of writing or breaks lines in Unicode, and bytes that are not UTF-8.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Modules whose lines say nothing of where maskc was called, be it by way of Keras.
_BETWEEN = ("maskc", "passes", "contextlib", "keras", "tensorflow")

# Of a name that is longer, its beginning and end are shown.
_LONGEST = 300


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


class MaskcError(Exception):
    """Base of all errors that maskc raises on purpose; the message is one or two plain sentences.

    Names and paths in it are shown on one line, whatever characters they have and however many.
    """

    exit_code = 2
    ag_pass_through = True  # so TensorFlow raises it as it is, too, where a `tf.function` ends in it

    def __init__(self, message: str = "") -> None:
        words = (word if len(word) <= _LONGEST else f"{word[:100]}...{word[-100:]}" for word in message.split(" "))
        super().__init__(visible(" ".join(words)))


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


def warn(message: str, kind: type[Warning] = PruningWarning) -> None:
    """Warns at the line that called maskc, however many functions are between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)


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
        raise InputError(f"{name} cannot be read or written: {error.strerror or error}.") from error
