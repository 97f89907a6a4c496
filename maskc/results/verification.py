"""Result of a verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from maskc.errors import NotEquivalentError, UndecidedError
from maskc.results.document import Checked, Compared, Document


class Certificate(Protocol):
    """A proof that others can check, with `maskc recheck` or without maskc."""

    def document(self, source: Sequence[Path], compiled: Sequence[Path]) -> dict[str, Any]:
        """The proof as data, for models in these files."""

    def save(self, path: Path, source: Sequence[Path], compiled: Sequence[Path]) -> None:
        """Write it as JSON, whole or not at all, for models in these files. Raises `InputError` when that fails."""


@dataclass(frozen=True)
class Verification(Checked, Compared):
    """The result of comparing a compiled model with its reference: how it came out, with figures of both.

    `certificate` is the proof, None where not all regions were compared and agree.
    """

    certificate: Certificate | None = field(default=None, repr=False, compare=False, kw_only=True)

    def raise_if_failed(self) -> None:
        """Raise unless the check passed: `NotEquivalentError`, saying what failed first, or `UndecidedError`."""
        self.raise_if_different()
        if self.undecided:
            raise UndecidedError(self.undecided[0])

    def raise_if_different(self) -> None:
        """Raise `NotEquivalentError`, saying what failed first, where the check found a difference."""
        if self.reasons:
            raise NotEquivalentError(self.reasons[0])

    def document(self) -> Document:
        """The report of `maskc verify`."""
        # Its notes are on how the comparison was made, and stand there.
        return Document.of("verify", self, verification=self.checked(), notes=())

    def checked(self) -> Checked:
        """The comparison without the figures and the latency, which stand elsewhere in the document."""
        return Checked(**{item.name: getattr(self, item.name) for item in fields(Checked)})
