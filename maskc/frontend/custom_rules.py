"""A user's Python files: rules for operators, which register themselves in `passes`, and functions by name."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from maskc.errors import InputError, Terminated
from passes.errors import in_brief

# Files that were run, as tracebacks name them.
_ran = set[str]()


def load(files: Sequence[Path]) -> None:
    """Run these Python files, of rules or of Keras layers. Raises `InputError` when one is missing or fails."""
    for file in files:
        _run(file, "The file of rules")


def function_of(file: Path, name: str) -> Callable[..., Any]:
    """The function of this name in a Python file. Raises `InputError` when there is none, or the file fails."""
    function = getattr(_run(file, "The Python file"), name, None)
    if not callable(function):
        raise InputError(f"The Python file {file} has no function '{name}'.")
    return function  # type: ignore[no-any-return]


def failure(error: BaseException) -> InputError | None:
    """What to say of an error that such a file raised, by its line; None of any other."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _ran]
    if not frames:
        return None
    why = f"{type(error).__name__}: {in_brief(error)}"
    return InputError(f"{frames[-1].filename} fails in line {frames[-1].lineno} ({why}).")


def _run(file: Path, what: str) -> ModuleType:
    if not file.exists():
        raise InputError(f"{what} {file} does not exist.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise InputError(f"{what} {file} must be a Python file, with the ending .py.")
    module = importlib.util.module_from_spec(spec)
    if _is_free(file.stem, file):  # pickling and Keras look functions up by their module
        sys.modules[file.stem] = module
    _ran.add(spec.origin or "")
    try:
        spec.loader.exec_module(module)
    except Terminated:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:200]
        raise InputError(f"{what} {file} cannot be run ({reason}).") from error
    return module


def _is_free(name: str, file: Path) -> bool:
    """Whether nothing but the file would be imported by this name, as a library that is not imported yet."""
    if name in sys.modules:
        return False
    with contextlib.suppress(ImportError, ValueError):  # of a name with dots
        found = importlib.util.find_spec(name)
        return found is None or found.origin is None or os.path.realpath(found.origin) == os.path.realpath(file)
    return True
