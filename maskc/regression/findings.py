"""Rules of `maskc check`, one for each figure: equivalence, channels, FLOPs and their reduction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maskc.compilation.compile_report import CompileReport
from maskc.errors import InputError
from maskc.regression.baseline import Entry, channels
from maskc.report.wording import codes_line, counted_at, distinct, held_lines, ranges, sizes_in_brief
from passes.errors.arguments import check_fields
from passes.planning.masked_axes import Held

# Layers named in the explanation of FLOPs that rose; the others are counted.
_NAMED = 8

Kind = Literal["flops", "reduction", "equivalence", "channels"]


@dataclass(frozen=True)
class Finding:
    """One regression: a sentence, and lines that name the layers and say why."""

    kind: Kind
    message: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.details:
            return self.message
        return "\n".join((f"{self.message.rstrip('.')}:", *(f"  {line}" for line in self.details)))


@dataclass(frozen=True)
class Limits:
    """The limits: FLOPs above the baseline, as a fraction of it, and the least FLOPs before over FLOPs after."""

    tolerance: float = 0.0
    min_reduction: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, InputError)
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise InputError(f"The tolerance must be 0 or more, and not {self.tolerance}. For one percent write 0.01.")
        if self.min_reduction is not None and not self.min_reduction > 0:
            raise InputError(f"The least reduction must be above 0, and not {self.min_reduction}.")


def findings(before: Entry | None, now: Entry, report: CompileReport, limits: Limits) -> Iterator[Finding]:
    """The regressions from `before` (None: nothing to compare with) to `now`, which `report` is about."""
    if limits.min_reduction is not None and report.reduction < limits.min_reduction:
        yield Finding(
            "reduction",
            f"FLOPs at {sizes_in_brief(report.before.at)} are reduced {report.reduction:.2f}×, below the required "
            f"{limits.min_reduction:g}×.",
            (*held_lines(report.held), *codes_line(report.held)),
        )
    if before is None:
        return
    names = _other_names(before, now)
    widths, flops = (
        {names.get(name, name): value for name, value in values.items()}
        for values in (before.widths, before.layer_flops)
    )
    before = dataclasses.replace(before, widths=widths, layer_flops=flops)
    if before.verified and not now.verified:
        yield Finding("equivalence", "It was verified for the baseline and cannot be verified now.", report.warnings)
    if kept := tuple(_no_longer_removed(before, now, report)):
        count = sum(len(item.channels) for item in kept)
        what = "1 masked channel was" if count == 1 else f"{count} masked channels were"
        yield Finding("channels", f"{what} removed before and kept now.", (*held_lines(kept), *codes_line(kept)))
    if now.after.flops > before.after.flops * (1 + limits.tolerance):
        causes = (*_unmasked(before, report), *_costlier_layers(before, now), *_other_flops(before, now))
        yield Finding("flops", _rise(before, now, limits.tolerance), causes)


def _other_names(before: Entry, now: Entry) -> dict[str, str]:
    """Layers of the baseline that are not there by name, and those in their places now, if they are as many."""
    old = [name for name in before.layer_flops if name not in now.layer_flops]
    new = [name for name in now.layer_flops if name not in before.layer_flops]
    return dict(zip(old, new, strict=True)) if len(old) == len(new) else {}


def _no_longer_removed(before: Entry, now: Entry, report: CompileReport) -> Iterator[Held]:
    """The channels that are kept now and were removed for the baseline, along axes that keep more than then."""
    for item in report.held:
        key = f"{item.tensor}@{item.axis}"
        if channels(now.held.get(key, "")).sum() <= channels(before.held.get(key, "")).sum():
            continue
        gone = channels(before.removed.get(key, ""))
        back = tuple(channel for channel in item.channels if channel < len(gone) and gone[channel])
        if back:
            yield dataclasses.replace(item, channels=back)


def _rise(before: Entry, now: Entry, tolerance: float) -> str:
    old, new = before.after.flops, now.after.flops
    share = f" (+{new / old - 1:.2%})" if old else ""
    cause = "the model is unchanged" if before.sha256 == now.sha256 else "the model has changed"
    allowed = f"; the tolerance is {tolerance:.2%}" if tolerance else ""
    sizes = f" at {distinct(now.at.values())}" if now.at else ""
    return f"FLOPs rose from {old:,} to {new:,}{share}{sizes}{allowed}; {cause}."


def _unmasked(before: Entry, report: CompileReport) -> Iterator[str]:
    """Masks with fewer masked channels than in the baseline."""
    masked = {f"{axis.tensor}@{axis.axis}": axis.channels for axis in report.masked}
    for key in before.removed | before.held:
        removed, held = channels(before.removed.get(key, "")), channels(before.held.get(key, ""))
        old = np.zeros(max(len(removed), len(held)), np.bool_)  # a set of numbers would take gigabytes
        old[: len(removed)] |= removed
        old[: len(held)] |= held
        new = masked.get(key, ())
        if len(new) < old.sum():
            name, _, axis = key.rpartition("@")
            old[[channel for channel in new if channel < len(old)]] = False
            bare = np.flatnonzero(old)
            which = f"channel {ranges(bare)} is" if len(bare) == 1 else f"channels {ranges(bare)} are"
            yield f"mask '{name}' axis {axis}: {which} no longer masked"


def _costlier_layers(before: Entry, now: Entry) -> Iterator[str]:
    """The layers with more FLOPs, those that rose most first."""
    rises = {name: flops - before.layer_flops.get(name, 0) for name, flops in now.layer_flops.items()}
    costlier = sorted((name for name, rise in rises.items() if rise > 0), key=lambda name: (-rises[name], name))
    for name in costlier[:_NAMED]:
        yield f"layer '{name}' {_width(before.widths.get(name), now.widths.get(name))}: +{rises[name]:,} FLOPs"
    if rest := costlier[_NAMED:]:
        yield f"{len(rest)} more layers: +{sum(rises[name] for name in rest):,} FLOPs"


def _other_flops(before: Entry, now: Entry) -> Iterator[str]:
    old, new = (entry.after.flops - sum(entry.layer_flops.values()) for entry in (before, now))
    if new > old:
        yield f"everything that is not a layer: +{new - old:,} FLOPs"


def _width(before: int | None, now: int | None) -> str:
    if before is None:
        return "is not in the baseline" if now is None else f"({now} channels) is not in the baseline"
    if now is None or now == before:
        return f"({before} channels, as before) reads more"
    return f"has {now} channels and had {before}"


def notes(before: Entry | None, now: Entry, report: CompileReport) -> Iterator[str]:
    """Remarks on an entry that are no regressions; `report` is that of the compilation."""
    if report.before.at.unknown or report.before.at.loops:
        yield f"{counted_at(report.before.at)}."
    if before is None:
        return
    if before.at != now.at:
        old, new = (distinct(entry.at.values()) for entry in (before, now))
        yield f"FLOPs are counted at {new}, and in the baseline at {old}."
    if now.after.flops < before.after.flops:
        fell = f"FLOPs fell from {before.after.flops:,} to {now.after.flops:,}"
        yield f"{fell} at {distinct(now.at.values())}; keep that with --update."
    names = _other_names(before, now)
    if names:
        old, new = next(iter(names.items()))
        what = "A layer has another name" if len(names) == 1 else f"{len(names)} layers have other names"
        yield f"{what} than in the baseline, '{new}' for '{old}', matched in their order; keep that with --update."
    if now.maskc != before.maskc:
        yield f"The baseline is of maskc {before.maskc}, and this is {now.maskc}."
