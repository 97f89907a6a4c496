"""Native code in a process of its own, whose end is an error and not the end of this one.

That is for what has crashed before, so it costs nothing where nothing does. On Windows processes cannot be split in
two, and nothing is ever suspected.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from maskc import progress
from maskc.errors import CrashError, MaskcError

Result = TypeVar("Result")

_CRASHES = {int(getattr(signal, name, 0)) for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")} - {0}

#: whether what this process does has crashed before, in another process
suspected = False


def is_crash(code: int | None) -> bool:
    """Whether a process with this exit code was ended by a fault of its own."""
    return code is not None and -code in _CRASHES


def isolated(call: Callable[[], Result], who: str = "ONNX Runtime") -> Result:
    """The result of a call in a process of its own, of whose progress nothing is heard.

    Raises what the call does, if it is a `MaskcError`, and `CrashError` where the process ends without a result.
    """
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        _answer(call, theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        data = answer.read()
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if code or not data:
        raise CrashError(f"{who} crashes ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")
    result: Result | MaskcError = pickle.loads(data)
    if isinstance(result, MaskcError):
        raise result
    return result


def _answer(call: Callable[[], Any], line: int) -> None:
    """Write the result of the call, and end this process."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for stream in (1, 2):  # where a library says its last words
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        try:
            with progress.listening(lambda event: None):
                result = call()
        except MaskcError as error:
            result = error
        data = pickle.dumps(result)
        with os.fdopen(line, "wb") as answer:
            answer.write(data)
        code = 0
    finally:
        os._exit(code)
