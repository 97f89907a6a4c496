"""Progress events, reported by the functions that work and shown by listeners.

    with progress.stage("Comparing", total=len(samples)) as stage:
        for sample in samples:
            ...
            stage.advance()

The library never prints: without a listener nothing happens. With one,

    with progress.listening(print):
        maskc.compile("model.onnx")

it is called with each stage as it begins, with every step and at its end, and with the details that are told between,
as text. Stages nest. Work in other processes is not heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from maskc.errors import InputError


@dataclass(eq=False)
class Stage:
    """A piece of work: `done` steps of `total` (None: nobody knows how many), and a note on the latest.

    `seconds` is how long it took, None while it goes on. `depth` counts the stages around it. One that is `slow` is
    known to take seconds, so it can be shown at once.
    """

    title: str
    total: int | None = None
    done: int = 0
    note: str = ""
    seconds: float | None = None
    depth: int = 0
    slow: bool = False

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Tell that so many more steps are done."""
        self.done += steps
        if note is not None:
            self.note = note
        _tell(self)


Listener = Callable[[Stage | str], None]

_listener: ContextVar[Listener | None] = ContextVar("maskc_listener", default=None)
_around: ContextVar[tuple[Stage, ...]] = ContextVar("maskc_stages", default=())


#: told of folders, by path, that hold what is unfinished, when they are made (True) and when they are gone
keeps_folders: Callable[[str, bool], None] | None = None


def folder(path: Path, made: bool) -> None:
    """Report a temporary folder, to be removed if this process is killed."""
    if keeps_folders is not None:
        keeps_folders(str(path.resolve()), made)


#: told that this process needs time when it is told to end, to write what it has
gives_time: Callable[[], None] | None = None


def take_time() -> None:
    """Have this process, told to end from now on, take some time for it."""
    if gives_time is not None:
        gives_time()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener with what is told in this block."""
    if not callable(listener):
        raise InputError(f"`listener` must be a function, and not of type '{type(listener).__name__}'.")
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def stage(title: str, total: int | None = None, *, slow: bool = False) -> Iterator[Stage]:
    """A stage that lasts as long as the block; `slow` as in `Stage`."""
    around = _around.get()
    now = Stage(title, total, depth=len(around), slow=slow)
    token = _around.set((*around, now))
    start = time.perf_counter()
    _tell(now)
    try:
        yield now
    finally:
        _around.reset(token)
        now.seconds = time.perf_counter() - start
        _tell(now)


def note(text: str) -> None:
    """Report how the innermost stage is, and the same for verbose output."""
    for stage in _around.get()[-1:]:
        stage.advance(0, text)
    _tell(text)


def detail(text: str) -> None:
    """Report something for verbose output."""
    _tell(text)


def _tell(event: Stage | str) -> None:
    listener = _listener.get()
    if listener is not None:
        listener(event)
