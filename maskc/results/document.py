"""Report of a compilation or a comparison as one value, the document that `--report` writes.

docs/report.md describes it. Its JSON Schema, `schema/report-1.json`, is made of the classes here by
docs/report_schema.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from maskc.results.environment import __version__, loaded_versions, machine, now
from maskc.results.json_values import plain
from maskc.results.layers import Layer
from maskc.results.measurements import Figures, FirstDifference, Latency, OutputError, Regions
from passes.planning.masked_axes import Held, MaskedAxis
from passes.targets.widths.channel_multiples import Width

# Raised when a key goes, changes its name or means something else; new keys may come without.
SCHEMA = 1


@dataclass(frozen=True)
class Channels:
    """Masked channels, counted once per tensor axis: how many there are, how many are removed and how many are kept."""

    masked: int
    removed: int
    held: int


@dataclass(frozen=True)
class KeptForSpeed:
    """Masked channels that are kept because that channel count runs faster, counted once per tensor axis.

    `speedup` is the estimated time without them over that with them, null without an estimate, and `flops_without` are
    the FLOPs of the model compiled without them, null where they were not counted.
    """

    channels: int
    speedup: float | None
    flops_without: int | None


@dataclass(frozen=True)
class Checked:
    """How the comparison of two models came out.

    `verdict` is "verified" when all outputs agree and the reduction asked for (`min_reduction`) is reached; "failed"
    when something is wrong; "cannot tell" when nothing is, but parts could not be compared, as `undecided` says.
    `passed` holds for "verified" alone, and `equivalent` when no difference was found. `outputs` are their errors, and
    `regions` those in which the models were compared inside, null where they were not. `reasons` has a sentence for
    everything that failed, `notes` for what a reader should know about how the comparison was made, and `parting` says
    where models that differ first do so.
    """

    verdict: Literal["verified", "failed", "cannot tell"]
    passed: bool
    equivalent: bool
    outputs: tuple[OutputError, ...]
    regions: Regions | None
    min_reduction: float | None
    provider: str
    samples: int
    seed: int
    reasons: tuple[str, ...]
    undecided: tuple[str, ...]
    notes: tuple[str, ...]
    parting: FirstDifference | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A model before and after, which a report can be written of.

    `model` and `output` are the paths of both, None for a model in memory, and `before` and `after` their figures.
    `layers` are the nodes of both that multiply and accumulate; `latency` is None where it was not measured.
    """

    model: str | None = None
    output: str | None = None
    before: Figures
    after: Figures
    layers: tuple[Layer, ...] = ()
    latency: Latency | None = None

    @property
    def reduction(self) -> float:
        """FLOPs before over FLOPs after; infinite when nothing is left to compute."""
        return self.before.reduction_to(self.after)

    def document(self) -> Document:
        """The report."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The report as values that `json` can write; docs/report.md describes them."""
        return dict(plain(self.document()))


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report of `maskc compile` or `maskc verify`.

    `model` is the path of the source or the reference, and `output` that of the compiled model; null for a model in
    memory. `before` and `after` are their figures, `reduction` is FLOPs before over FLOPs after, and `layers` are
    the nodes that multiply and accumulate. `channels`, `masked`, `held`, `widths` (layers that keep channels for
    speed) and `seconds` (of each pass) are known to a compilation only and null otherwise. `verification` and
    `latency` are null where nothing was verified or measured, and `kept_for_speed` where nothing was kept for it.
    `notes` are the compiler's, and `warnings` say what to look at in the input. `versions` are those of the
    libraries that were used, and `machine` says on what kind of machine. Numbers that are infinite or not defined
    are null.
    """

    schema: int = SCHEMA
    command: Literal["compile", "verify"]
    maskc: str = __version__
    versions: dict[str, str] = field(default_factory=loaded_versions)
    machine: str = field(default_factory=machine)
    date: str = field(default_factory=now)
    model: str | None
    output: str | None
    before: Figures
    after: Figures
    reduction: float | None
    channels: Channels | None = None
    layers: tuple[Layer, ...]
    masked: tuple[MaskedAxis, ...] | None = None
    held: tuple[Held, ...] | None = None
    widths: tuple[Width, ...] | None = None
    kept_for_speed: KeptForSpeed | None = None
    verification: Checked | None = None
    latency: Latency | None
    seconds: dict[str, float] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, command: Literal["compile", "verify"], result: Compared, **more: Any) -> Document:
        """The report of a result: what both have, and `more` that this command says."""
        shared = {item.name: getattr(result, item.name) for item in fields(cls) if hasattr(result, item.name)}
        return cls(command=command, **shared | more)
