"""The report of one compilation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskc.report import files
from maskc.results.document import Channels, Document, KeptForSpeed
from maskc.results.environment import now
from maskc.results.json_values import plain
from maskc.results.layers import Layer
from maskc.results.measurements import Latency
from maskc.results.totals import Figures
from maskc.results.verification import Verification
from passes.planning.explanation import Held, MaskedAxis
from passes.targets.widths.wider_layers import Width


@dataclass(frozen=True)
class CompileReport:
    """What a compilation found and did.

    `before` are the figures of the model as it stands and `after` those of the compiled one. `masked` lists
    the axes that have masked channels with how many were removed, and `held` every masked channel that is kept, with
    the operator that needs it and why. `seconds` is the time of each pass. `notes` are the compiler's own,
    and `warnings` say what to look at in the input. `verification` is None when none was made. `layers` are
    the nodes that multiply and accumulate, with their channels and FLOPs before and after. `widths` are those that
    keep channels for a width that runs faster, or was asked for, and `kept_for_speed` says what that costs and gains.
    `latency` is None where it was not measured, and `date` is when the report was made.
    """

    maskc: str
    model: str | None
    before: Figures
    after: Figures
    masked: tuple[MaskedAxis, ...]
    held: tuple[Held, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    output: str | None = None
    verification: Verification | None = None
    layers: tuple[Layer, ...] = ()
    latency: Latency | None = None
    date: str = field(default_factory=now)
    widths: tuple[Width, ...] = ()
    kept_for_speed: KeptForSpeed | None = None

    @property
    def verified(self) -> bool:
        """Whether a verification was made and passed."""
        return self.verification is not None and self.verification.passed

    @property
    def flops_reduction(self) -> float:
        """FLOPs before over FLOPs after."""
        return self.before.reduction_to(self.after)

    @property
    def channels_masked(self) -> int:
        """Masked channels, counted once per tensor axis."""
        return sum(axis.masked for axis in self.masked)

    @property
    def channels_removed(self) -> int:
        """Masked channels that the compiled model does not compute."""
        return sum(axis.removed for axis in self.masked)

    def document(self) -> Document:
        """The report of `maskc compile`."""
        held = sum(len(held.channels) for held in self.held)
        return Document.of(
            "compile",
            self,
            reduction=self.flops_reduction,
            channels=Channels(self.channels_masked, self.channels_removed, held),
            verification=None if self.verification is None else self.verification.checked(),
        )

    def to_json(self) -> dict[str, Any]:
        """The report as values that `json` can write; docs/report.md describes them."""
        return dict(plain(self.document()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a page or as data, by the ending of the name: `.html` or `.json`.

        Raises `InputError` when the ending is another or the file cannot be written.
        """
        files.check((Path(path),))
        files.write(self.document(), Path(path))
