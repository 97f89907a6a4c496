"""The result of comparing two models, as a value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from maskc.errors import NotEquivalentError, UndecidedError
from maskc.results.document import Checked, Document
from maskc.results.json_values import plain
from maskc.results.layers import Layer
from maskc.results.measurements import Latency
from maskc.results.totals import Figures


@dataclass(frozen=True)
class Verification(Checked):
    """The result of comparing a compiled model with its reference: how it came out, with figures of both.

    `before` and `after` are the figures of the two files, and `latency` is measured if asked for. `model` and `output`
    are the paths of the reference and of the compiled model, None for a model in memory, and `layers` the nodes of both
    that multiply and accumulate.
    """

    before: Figures
    after: Figures
    latency: Latency | None = None
    model: str | None = None
    output: str | None = None
    layers: tuple[Layer, ...] = ()

    @property
    def reduction(self) -> float:
        """FLOPs before over FLOPs after; infinite when nothing is left to compute."""
        return self.before.reduction_to(self.after)

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
        return Document.of("verify", self, reduction=self.reduction, verification=self.checked(), notes=())

    def checked(self) -> Checked:
        """What was found, without the figures and the latency, which stand elsewhere in the document."""
        return Checked(**{item.name: getattr(self, item.name) for item in fields(Checked)})

    def to_json(self) -> dict[str, Any]:
        """What was found as values that `json` can write; docs/report.md describes them."""
        return dict(plain(self.document()))
