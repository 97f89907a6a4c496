"""The document that `--report` writes: what a compilation or a comparison found, as one value.

docs/report.md describes it. Its JSON Schema, `schema/report-1.json`, is made of the classes here by
docs/report_schema.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from maskc.results.environment import __version__, machine, now, versions
from maskc.results.layers import Layer
from maskc.results.measurements import ExactError, FirstDifference, Latency, OutputError
from maskc.results.totals import Figures
from passes.planning.explanation import Held, MaskedAxis
from passes.targets.widths.wider_layers import Width

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

    `verdict` is "verified" when all outputs agree, a difference would have shown and the reduction asked for
    (`min_reduction`) is reached; "failed" when something is wrong; "cannot tell" when nothing is, but outputs hardly
    move, as `undecided` says. `passed` holds for "verified" alone, and `equivalent` when no difference was found.
    `outputs` are their errors and `exact` those in double precision, null where that was not
    computed. `reasons` has a sentence for everything that failed, `notes` for what a reader should know about how the
    comparison was made, and `parting` says where models that differ first do so.
    """

    verdict: Literal["verified", "failed", "cannot tell"]
    passed: bool
    equivalent: bool
    outputs: tuple[OutputError, ...]
    exact: tuple[ExactError, ...] | None
    min_reduction: float | None
    provider: str
    samples: int
    seed: int
    reasons: tuple[str, ...]
    undecided: tuple[str, ...]
    notes: tuple[str, ...]
    parting: FirstDifference | None


@dataclass(frozen=True)
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

    schema: int
    command: Literal["compile", "verify"]
    maskc: str
    versions: dict[str, str]
    machine: str
    date: str
    model: str | None
    output: str | None
    before: Figures
    after: Figures
    reduction: float | None
    channels: Channels | None
    layers: tuple[Layer, ...]
    masked: tuple[MaskedAxis, ...] | None
    held: tuple[Held, ...] | None
    widths: tuple[Width, ...] | None
    kept_for_speed: KeptForSpeed | None
    verification: Checked | None
    latency: Latency | None
    seconds: dict[str, float] | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, command: Literal["compile", "verify"], result: object, **more: Any) -> Document:
        """The report of a result: its values of the same names, `more` in their place, and null for all others."""
        values: dict[str, Any] = dict.fromkeys(item.name for item in fields(cls))
        known = {"maskc": __version__, "date": now(), "notes": (), "warnings": ()} | vars(result) | more
        values |= {name: value for name, value in known.items() if name in values}
        return cls(**values | {"schema": SCHEMA, "command": command, "versions": versions(), "machine": machine()})
