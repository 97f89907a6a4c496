"""Worker processes for tasks; a crash in one does not affect the others."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from maskc.compilation.signal_handling import end_with_parent, uninterrupted, unwinding
from maskc.errors import FaultError, InputError, MaskcError, telling
from maskc.frontend.custom_rules import failure, load
from maskc.runtime import isolation
from passes.errors import in_brief

Task = TypeVar("Task")
Result = TypeVar("Result")

# The exit code of a worker whose main module calls for workers while it is imported.
_UNGUARDED = 77


def each(
    call: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, rules: Sequence[Path] = ()
) -> Iterator[tuple[int, Result | MaskcError]]:
    """Call a function of a module on each task, `jobs` at a time, each in a fresh process that loads `rules` first.

    Yields the number of each task as it ends, with its result or with the error that ended it. Tasks, results and the
    function are pickled. The processes start Python anew, so a script that asks for them does so below
    `if __name__ == "__main__":`, and raises `InputError` otherwise.
    """
    # Spawned, because neither TensorFlow nor ONNX Runtime is sure to survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting = deque(enumerate(tasks))
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    suspects: set[int] = set()  # which crashed, and are tried once more
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                index, task = waiting.popleft()
                mine, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(theirs, call, task, tuple(rules), index in suspects))
                with uninterrupted(), _own_libraries():
                    try:
                        process.start()
                    except RuntimeError:  # in a worker that has yet to import the main module
                        raise SystemExit(_UNGUARDED) from None
                    running[mine] = index, process
                theirs.close()  # so that the end of the process is the end of what can be read
            for ready in connection.wait(list(running)):
                assert isinstance(ready, Connection)
                index, process = running.pop(ready)
                outcome = _received(ready)
                process.join()
                if process.exitcode == _UNGUARDED:
                    raise InputError(
                        "Worker processes import the main module, which calls maskc again: put the call below "
                        '`if __name__ == "__main__":`.'
                    )
                if outcome is None and isolation.is_crash(process.exitcode) and index not in suspects:
                    suspects.add(index)
                    waiting.append((index, tasks[index]))
                    continue
                yield index, outcome if outcome is not None else _died(process)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


@contextmanager
def _own_libraries() -> Iterator[None]:
    """Keep Python, as it starts, from taking a file of the working directory, such as `select.py`, for one of its own.

    What is imported later is found as in this process, whose `sys.path` a worker gets.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def checked_jobs(jobs: int | None) -> int:
    """The number of processes: as given, or one for each core. Raises `InputError` for less than one."""
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise InputError(f"The number of jobs must be 1 or more, and not {jobs}.")
    return jobs


def attempt(call: Callable[[Task], Result], task: Task) -> Result | MaskcError:
    """The result of a call, or the error that ended it: one that users can act on as it is, others in a sentence."""
    try:
        with telling():
            return call(task)
    except MaskcError as error:
        return error
    except Exception as error:  # one task must not keep the others from being done
        if theirs := failure(error):
            return theirs
        reason = f"{type(error).__name__}: {in_brief(error)}"
        return FaultError(f"maskc failed unexpectedly ({reason}). Compile the model alone with --debug to see where.")


def _serve(answer: Connection, call: Callable[[Any], Any], task: Any, rules: tuple[Path, ...], suspected: bool) -> None:
    isolation.suspected = suspected

    def run(task: Any) -> Any:
        load(rules)
        return call(task)

    with unwinding():
        end_with_parent()
        answer.send(attempt(run, task))
        answer.close()


def _received(ready: Connection) -> Any:
    """The answer of a process; None if it ended before or while it gave one."""
    with ready:
        try:
            return ready.recv()
        except (EOFError, OSError):
            return None


def _died(process: SpawnProcess) -> FaultError:
    code = process.exitcode or 0
    if code >= 0:
        who = "The main module, which workers import, or custom rules may have ended it."
        return FaultError(f"A worker process died (exit code {code}). {who}")
    how = f"signal {-code}"
    return FaultError(
        f"The process died ({how}), most likely because it ran out of memory. Try fewer at a time, with --jobs."
    )
