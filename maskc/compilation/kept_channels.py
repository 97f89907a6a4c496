"""Masked channels that are kept: for speed, at what cost and gain, or for operators, with advice that was tried."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

import passes
from maskc import progress
from maskc.errors import InputError
from maskc.frontend.graph_queries import has_external
from maskc.frontend.mask_files import apply_masks
from maskc.results.document import KeptForSpeed
from passes import Shrunk
from passes.abstract_values.kept_reasons import CHEAPER_COMPUTED, SPEED
from passes.pipeline.report import Report
from passes.planning.masked_axes import Held, channels_by_axis

_ADVICE = "compile with `--align none`, which leaves fewer FLOPs"


def kept_for_speed(
    model: ModelProto, shrunk: Shrunk, *, compares: bool
) -> tuple[tuple[Held, ...], KeptForSpeed | None, Report]:
    """The masked channels that are kept, told apart, a summary (None where none are for speed), and a report.

    That report is on the model with the fewest channels, where that was looked at, and of `shrunk` otherwise.

    `compares`: whether to look at the model with the fewest channels, which says what is kept for speed and what it
    costs. Otherwise, and where weights are too large for that, only channels that were added for a layer's
    width are known to be.
    """
    report = shrunk.report
    weighed = shrunk.options.align is not None and any(item.code == CHEAPER_COMPUTED.code for item in report.held)
    if not report.widths and not weighed:
        return report.held, None, report
    held, plain = report.held, None
    if compares and not has_external(model):
        with progress.stage("Compiling without channels kept for speed"):
            plain = passes.report_with(model, shrunk)
        held = tuple(_told_apart(held, plain.held, _ADVICE if plain.after.flops < report.after.flops else ""))
    kept = sum(len(item.channels) for item in held if item.aligned)
    if not report.widths and not kept and (plain is None or plain.after.flops >= report.after.flops):
        return held, None, plain or report
    without = None if plain is None else plain.after.flops
    return held, KeptForSpeed(kept, report.speedup, without), plain or report


def _told_apart(held: Sequence[Held], needed: Sequence[Held], advice: str) -> Iterator[Held]:
    """Kept channels, with those that are not `needed` by the model with the fewest marked as kept for speed.

    `advice` is for those; why others stay is as that model says.
    """
    stays, by_axis = channels_by_axis(held), channels_by_axis(needed)
    for item in needed:
        still = tuple(channel for channel in item.channels if channel in stays.get((item.tensor, item.axis), ()))
        if still:
            yield dataclasses.replace(item, channels=still, advice="")
    for item in held:
        there = by_axis.get((item.tensor, item.axis), set())
        spare = tuple(channel for channel in item.channels if channel not in there)
        if spare:
            yield dataclasses.replace(item, channels=spare, advice=advice, aligned=True, code=SPEED.code)


def with_advice(model: ModelProto, shrunk: Shrunk, report: Report, held: Sequence[Held]) -> tuple[Held, ...]:
    """Kept channels, with advice that removed them in a trial and lowered the FLOPs.

    shrunk: the compiled model. report: of that with the fewest channels, which the trials are compared with; channels
    kept for speed have their advice. Nothing is tried with weights that are too large for memory.
    """
    needed = [item for item in held if not item.aligned]
    if not needed or has_external(model):
        return tuple(held)
    helping = []
    with progress.stage("Trying what would remove the channels that are kept"):
        for words, trial in _trials(model, shrunk, report, needed):
            if trial.after.flops < report.after.flops:
                saved = 1 - trial.after.flops / report.after.flops
                helping.append((f"{words} ({saved:.1%} fewer FLOPs)", trial))
    return tuple(part for item in held for part in ([item] if item.aligned else _advised(item, helping)))


def _trials(model: ModelProto, shrunk: Shrunk, report: Report, needed: Sequence[Held]) -> Iterator[tuple[str, Report]]:
    """Pieces of advice, with the reports on compilations in which each was followed."""
    fewest = dataclasses.replace(shrunk.options, align=None, keeps_analysis=False)
    if masks := _masks_of_others(needed):
        with contextlib.suppress(InputError):  # of a tensor that the file does not have, or one that takes no mask
            changed = apply_masks(model, masks)
            yield "share the mask or mask both", passes.shrink(changed, fewest, at=report.before.at.sizes).report
    if shrunk.options.adapters != "always":
        yield "compile with `--adapters always`", passes.report_with(model, shrunk, adapters="always")


def _masks_of_others(needed: Sequence[Held]) -> dict[str, NDArray[np.bool_]]:
    """Masks that remove the channels that are kept from what they are combined with."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for other in (item.other for item in needed if item.other is not None):
        mask = masks.setdefault(f"{other.tensor}@{other.axis}", np.ones(other.total, bool))
        mask[list(other.channels)] = False
    return masks


def _advised(item: Held, trials: Sequence[tuple[str, Report]]) -> Iterator[Held]:
    """The item, in parts where not all of its channels have the same advice."""
    kept = [channels_by_axis(trial.held).get((item.tensor, item.axis), set()) for _, trial in trials]
    helping = {channel: tuple(channel not in still for still in kept) for channel in item.channels}
    for helps, channels in groupby(sorted(item.channels, key=helping.__getitem__), helping.__getitem__):
        words = [advice for (advice, _), help in zip(trials, helps, strict=True) if help]
        yield dataclasses.replace(item, channels=tuple(sorted(channels)), advice=", or ".join(words))
