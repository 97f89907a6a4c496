"""Report files, as pages or as data by the ending of the name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskc.errors import InputError
from maskc.frontend import write_model_files
from maskc.results.json_values import plain

if TYPE_CHECKING:
    from maskc.results.document import Document


def is_page(path: Path) -> bool:
    """Whether this is to be a page, rather than data."""
    return path.suffix.lower() == ".html"


def check(reports: Sequence[Path]) -> None:
    """Refuse, before any work is done, reports of another kind and files that could not be written."""
    for path in reports:
        if path.suffix.lower() not in (".html", ".json"):
            raise InputError(f"The report {path} must end with .html, for a page, or with .json, for data.")
        check_target(path, "report")


def check_target(path: Path, what: str = "output") -> None:
    """Refuse a file that could not be written."""
    check_not_stdout(path, what)
    if path.is_dir():
        raise InputError(f"The {what} {path} is a directory. Give the name of a file.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} cannot be written: {write_model_files.NOT_A_FILE}.")
    if path.parent.is_file():
        raise InputError(f"{path.parent} is a file, and no directory to write into.")
    if not path.parent.is_dir():
        raise InputError(f"The directory {path.parent} does not exist. Create it first.")


def check_not_stdout(path: Path, what: str = "output") -> None:
    """Refuse what stands for stdout in other commands, and would be a file of that name."""
    if str(path) == "-":
        raise InputError(
            f"The {what} is written to a file, and not to stdout, which - stands for. Give the name of one."
        )


def check_places(written: Iterable[tuple[str, Path]], read: Sequence[Path]) -> None:
    """Refuse files that would take the place of what is read, or of one another, each with what it is called."""
    taken = set()
    for what, path in written:
        if path.exists() and any(file.exists() and path.samefile(file) for file in read):
            raise InputError(f"The {what} {path} is the input itself. Give another name.")
        if path.resolve() in taken:
            raise InputError(f"Two files would be written to {path}. Give each a name of its own.")
        taken.add(path.resolve())


def write(document: Document, path: Path) -> None:
    """Write the document, whole or not at all. Raises `InputError` when that fails."""
    if is_page(path):
        from maskc.report.page import page

        text = page(document)
    else:
        text = json.dumps(plain(document), indent=2, allow_nan=False) + "\n"
    write_model_files.write_text(path, text, "The report ")
