"""Progress bars on stderr, and a log of all steps for `--verbose`.

Both go to stderr. Rich is imported when there is a bar to show, so that short work does not pay for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from maskc.errors import visible
from maskc.progress import Stage
from maskc.report.word_wrap import told

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

# Seconds after which a stage is shown, and between two pictures.
DELAY = 1.5
_TICK = 0.1


@dataclass
class Volume:
    """Verbosity: errors only, or the steps as well."""

    quiet: bool = False
    verbose: bool = False


class ProgressBars:
    """A listener for `maskc.progress`, to be used as a context.

    Each stage that takes longer than `delay` seconds, or is known to be slow, is shown while it lasts, if stderr is a
    terminal; nothing of it is left afterwards. What redirects stderr meanwhile does not hide it. A `verbose` volume
    prints details, and each stage at its end with its time, the first after what `opening` gives; a `quiet` one prints
    nothing. The volume may change on the way.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        delay: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
        opening: Callable[[], str] | None = None,
    ) -> None:
        self._volume = volume
        self._delay = DELAY if delay is None else delay
        self._clock = clock
        self._console = console
        self._opening = opening
        self._began: dict[Stage, float] = {}
        self._tasks: dict[Stage, TaskID] = {}
        self._progress: Progress | None = None
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._stderr: TextIO | None = None

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._began.clear()
            self._clear()
            if self._stderr is not None:
                self._stderr.close()

    def __call__(self, event: Stage | str) -> None:
        """Take note of what a function tells."""
        with self._lock:
            if isinstance(event, str):
                self._say(event)
            elif event.seconds is None:
                if event not in self._began:
                    self._began[event] = self._clock()
                self._watch()
                if event.slow and self._thread is not None:
                    self.draw()  # its work may keep the thread from doing so
            else:
                self._end(event)

    def draw(self) -> None:
        """Show the stages as they are now, those that have lasted long enough."""
        with self._lock:
            now = self._clock()
            lasted = {
                stage: now - began for stage, began in self._began.items() if stage.slow or now - began >= self._delay
            }
            if not lasted or self._volume.quiet:
                return
            if self._progress is None:
                self._progress = self._made()
                self._progress.start()
            for stage, seconds in lasted.items():
                if stage not in self._tasks:
                    self._tasks[stage] = self._progress.add_task(stage.title, steps="", time="", note="")
                self._progress.update(
                    self._tasks[stage],
                    total=stage.total,
                    completed=stage.done,
                    steps="" if stage.total is None else f"{stage.done}/{stage.total}",
                    time=f"{seconds:.0f} s",
                    note=stage.note,
                )
            self._progress.refresh()

    def _watch(self) -> None:
        """Draw from now on, if anybody can see it."""
        if self._thread is None and not self._volume.quiet and sys.stderr.isatty():
            self._stderr = _duplicate(sys.stderr)
            self._thread = threading.Thread(target=self._keep_drawing, name="progress", daemon=True)
            self._thread.start()

    def _keep_drawing(self) -> None:
        while not self._over.wait(_TICK):
            self.draw()

    def _end(self, stage: Stage) -> None:
        self._began.pop(stage, None)
        task = self._tasks.pop(stage, None)
        if task is not None and self._progress is not None:
            self._progress.remove_task(task)
        if not self._tasks:  # what is printed next must not meet a picture
            self._clear()
        steps = f", {stage.done} of {stage.total}" if stage.total is not None else ""
        self._say(f"{'  ' * stage.depth}{stage.title}: {stage.seconds:.2f} s{steps}")

    def _clear(self) -> None:
        self._tasks.clear()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _say(self, text: str) -> None:
        if not self._volume.verbose:
            return
        text = visible(text)
        if self._opening is not None:
            text, self._opening = f"{self._opening()}\n{text}", None
        if self._progress is None:
            told(text, sys.stderr)
        else:  # above the bars
            from rich.text import Text

            self._progress.console.print(Text(text), soft_wrap=True)

    def _made(self) -> Progress:
        from rich.progress import BarColumn, Progress, TextColumn

        from maskc.report.visible_console import VisibleConsole

        def column(field: str) -> TextColumn:
            return TextColumn("{task." + field + "}", markup=False)

        return Progress(
            column("description"),
            BarColumn(),
            *map(column, ("fields[steps]", "fields[time]", "fields[note]")),
            console=self._console or VisibleConsole(file=self._stderr, stderr=self._stderr is None),
            transient=True,
            auto_refresh=False,  # there is a thread for it here
            redirect_stdout=False,  # others redirect it while bars are shown
            redirect_stderr=False,
        )


def _duplicate(stream: TextIO) -> TextIO | None:
    """A file of its own on the same terminal, as native code's stderr is redirected while TensorFlow loads."""
    try:
        return os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="replace")
    except (OSError, ValueError):
        return None
