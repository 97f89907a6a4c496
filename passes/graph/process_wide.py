"""Process-wide settings, held while any thread asks for them: set and restored by turns they would end up wrong."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


def process_wide(context: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    """Decorator of a context manager without arguments: the first thread inside enters it, the last one leaves it."""
    lock, held = threading.Lock(), ExitStack()
    inside = 0

    @contextmanager
    def shared() -> Iterator[None]:
        nonlocal inside
        with lock:
            if not inside:
                held.enter_context(context())
            inside += 1
        try:
            yield
        finally:
            with lock:
                inside -= 1
                if not inside:
                    held.close()

    return shared


@process_wide
@contextmanager
def without_warnings() -> Iterator[None]:
    """Python's warnings go nowhere. It alone touches their filters: contexts that overlap undo each other's work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
