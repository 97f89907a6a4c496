"""Temporary folders for files in the making, and removal of those that killed processes left."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from maskc import progress

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing of other processes removed
    fcntl = None  # type: ignore[assignment]

# Characters of a name that the folder's own begins with; file systems have room for 255 bytes, which four may take.
_NAMED = 50
# Bytes of chance in a name: no two folders have the same.
_RANDOM = 8


@contextlib.contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """A folder on the file system of `path`, which goes away with all that is in it when the block ends.

    What processes left that ended in the middle of such a block for the same path is removed before: folders that
    nobody holds a lock on, which the system releases when a process ends. Raises OSError where none can be made.
    """
    beginning = f".{path.name[:_NAMED]}."
    _remove_left(path.parent, beginning)
    lock: int | None = None
    while True:
        # Named before it is made, so that it is removed at whatever moment this process is told to end.
        folder = path.parent / f"{beginning}{secrets.token_hex(_RANDOM)}.part"
        try:
            folder.mkdir(mode=0o700)
            try:
                lock = _lock(folder)
            except (BlockingIOError, FileNotFoundError):
                continue  # another process has taken it for one that was left
            except OSError:
                pass  # this file system has no locks
            if not folder.exists():
                continue
            progress.folder(folder, made=True)
            yield folder
            return
        finally:
            try:
                shutil.rmtree(folder, ignore_errors=True)
            except BaseException as error:  # of a signal, which comes once
                shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, OSError) and error.__context__ is not None:
                    raise error.__context__ from None  # one that came as a file was closed, which is closed again then
                raise
            finally:
                progress.folder(folder, made=False)
                if lock is not None:
                    os.close(lock)
                    lock = None


def _remove_left(directory: Path, beginning: str) -> None:
    pattern = re.compile(re.escape(beginning) + r"\w{8,}\.part")
    with contextlib.suppress(OSError):
        for folder in [entry for entry in directory.iterdir() if pattern.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                lock = _lock(folder)
                if lock is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(lock)


def _lock(folder: Path) -> int | None:
    """A lock that ends with the process; None where there are none. Raises OSError where it cannot be had."""
    if fcntl is None:
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
