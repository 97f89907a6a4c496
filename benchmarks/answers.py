"""The side of a peer: one line of JSON in answer to each line that it reads. Needs no more than Python."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any


def serve(answer: Callable[[str], dict[str, Any]]) -> None:
    """Answer each line of standard input on standard output, and let everything else that is printed go elsewhere."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            told = answer(line.strip())
        except Exception as error:  # what a tool fails with is a result
            told = {"failed": in_brief(error)}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def serve_methods(make: Callable[[], object]) -> None:
    """Answer each line, the name of a method and its arguments, with what the method says of an object made once."""
    made: list[object] = []

    def answer(line: str) -> dict[str, Any]:
        if not made:  # here, as what it fails with is an answer too
            made.append(make())
        command, *arguments = line.split()
        told: dict[str, Any] = getattr(made[0], command)(*arguments)
        return told

    serve(answer)


def in_brief(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
