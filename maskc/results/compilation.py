"""The report of one compilation, and results as JSON."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskc.results.layers import Layer
from maskc.results.totals import Figures
from passes.results import Held, MaskedAxis, Width

if TYPE_CHECKING:
    from maskc.runtime.latency import Latency
    from maskc.verification.verify import Verification


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class CompileReport:
    """What a compilation found and did.

    `before` are the figures of the model as it stands and `after` those of the compiled one. `masked` lists
    the axes that have masked channels with how many went, and `held` every masked channel that stayed, with
    the operator that holds it and why. `seconds` is the time of each pass. `notes` are the compiler's own,
    and `warnings` say what to look at in the input. `verification` is None when none was made. `layers` are
    the nodes that multiply and accumulate, with their channels and FLOPs before and after. `widths` are those that
    keep channels for a width that runs faster, or was asked for. `latency` is None where it
    was not measured, and `date` is when the report was made.
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

    def to_json(self) -> dict[str, Any]:
        """The report as values that `json` can write; docs/report.md describes them."""
        from maskc.results.document import of_compilation

        data: dict[str, Any] = plain(of_compilation(self))
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a page or as data, by the ending of the name: `.html` or `.json`.

        Raises `InputError` when the ending is another or the file cannot be written.
        """
        from maskc.report import files
        from maskc.results.document import of_compilation

        files.check((Path(path),))
        files.write(of_compilation(self), Path(path))


def ratio(value: float) -> float | None:
    """A factor, or None for an infinite one, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numbers as JSON knows them; numbers that are not finite become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return ratio(value)
    return value
