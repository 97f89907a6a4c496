"""Paths of the repository, and its scripts as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("maskc", "passes") for path in (ROOT / package).rglob("*.py"))


def script(path: str) -> ModuleType:
    """A file that is no part of a package, such as docs/rooms.py, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")
