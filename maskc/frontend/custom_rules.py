"""Loading a user's rules for operators, which register themselves in `passes`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from maskc.errors import InputError


def load(files: Sequence[Path]) -> None:
    """Run these Python files. Raises `InputError` when one is missing or fails."""
    for file in files:
        if not file.exists():
            raise InputError(f"The file of rules {file} does not exist.")
        # the name is of no use to anyone: nobody imports the file again
        spec = importlib.util.spec_from_file_location(f"maskc_rules_{file.stem}", file)
        if spec is None or spec.loader is None or not file.is_file():
            raise InputError(f"The file of rules {file} must be a Python file, with the ending .py.")
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:200]
            raise InputError(f"The file of rules {file} cannot be run ({reason}).") from error
