"""Another program that works when it is told to, so that several can take turns: one JSON object a line, both ways."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


class Worker:
    """A process that reads a line, does what it says, and answers in a line of JSON; `failed` says that it cannot."""

    def __init__(self, command: Sequence[str | Path], seconds: float) -> None:
        self.seconds = seconds
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
        )

    def ask(self, line: str) -> dict[str, Any]:
        """The answer to a line, within the seconds given."""
        assert self.process.stdin
        assert self.process.stdout
        late = threading.Timer(self.seconds, self.process.kill)
        late.start()
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            over = not late.is_alive()
            late.cancel()
        if not answer:
            return {"failed": f"takes more than {self.seconds:.0f} s" if over else f"its process dies: {self._last()}"}
        told: dict[str, Any] = json.loads(answer)
        return told

    def _last(self) -> str:
        """The last line that it wrote beside its answers."""
        self.process.wait()
        self.said.seek(0)
        return (self.said.read().strip().splitlines() or ["without a word"])[-1]

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.said.close()
