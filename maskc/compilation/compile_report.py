"""Report of one compilation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from maskc.inspection.arguments import public
from maskc.report import files
from maskc.results.document import Channels, Compared, Document, KeptForSpeed
from maskc.results.environment import now
from maskc.results.verification import Verification
from passes.planning.masked_axes import Held, MaskedAxis
from passes.targets.widths.channel_multiples import Width


@dataclass(frozen=True, kw_only=True)
class CompileReport(Compared):
    """The report of a compilation: figures before and after, masked channels, verification.

    Besides the figures of both models, `masked` lists the axes that have masked channels with how many were removed,
    and `held` every masked channel that is kept, with the operator that needs it and why. `seconds` is the time of each
    pass. `notes` are the compiler's own, and `warnings` say what to look at in the input. `verification` is None when
    none was made. `widths` are those that keep channels for a width that runs faster, or was asked for, and
    `kept_for_speed` says what that costs and gains. `date` is when the report was made.
    """

    maskc: str
    masked: tuple[MaskedAxis, ...]
    held: tuple[Held, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verification: Verification | None = None
    date: str = field(default_factory=now)
    widths: tuple[Width, ...] = ()
    kept_for_speed: KeptForSpeed | None = None

    @property
    def verified(self) -> bool:
        """Whether a verification was made and passed."""
        return self.verification is not None and self.verification.passed

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
        channels = Channels(self.channels_masked, self.channels_removed, held)
        checked = None if self.verification is None else self.verification.checked()
        return Document.of("compile", self, channels=channels, verification=checked)

    @public
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a page or as data, by the ending of the name: `.html` or `.json`.

        Raises `InputError` when the ending is another or the file cannot be written.
        """
        files.check((Path(path),))
        files.write(self.document(), Path(path))
