"""Files that hold something else than their names say, told by their first bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path

_ZIP = b"PK\3\4"
_KINDS = {
    b"version https://git-lfs.": "is a pointer of Git LFS, and not the file itself: get that with `git lfs pull`",
    _ZIP: "is a zip archive: unpack it, and give the file inside",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"<!DOCTYPE": "is a web page, and not the file itself: download that",
    b"<html": "is a web page, and not the file itself: download that",
}


def fault(path: Path, otherwise: str) -> str:
    """What is wrong with a file that cannot be read: what it is instead, with what to do, if that shows."""
    start, told = b"", dict(_KINDS)
    if path.suffix in (".npz", ".keras"):  # which are zip archives
        del told[_ZIP]
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    return next((what for sign, what in told.items() if start.startswith(sign.lower())), otherwise)
