"""Costs and gains of the channels that are kept for speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from onnx import ModelProto

import passes
from maskc import progress
from maskc.frontend.graph_queries import has_external
from maskc.results.document import KeptForSpeed
from passes import Shrunk
from passes.abstract_values.kept_reasons import SPEED
from passes.pipeline.report import Report
from passes.planning.masked_axes import Held, channels_by_axis

_ADVICE = "compile with `--align none`, which leaves fewer FLOPs"


def kept_for_speed(
    model: ModelProto, shrunk: Shrunk, *, compares: bool
) -> tuple[tuple[Held, ...], KeptForSpeed | None, Report]:
    """The masked channels that are kept, told apart, a summary (None where no layer keeps any for speed), and a report.

    That report is on the model with the fewest channels, where that was looked at, and of `shrunk` otherwise.

    `compares`: whether to look at the model with the fewest channels, which says what is kept for speed and what it
    costs. Otherwise, and where weights are too large for that, only channels that were added for a layer's
    width are known to be.
    """
    report = shrunk.report
    if not report.widths:
        return report.held, None, report
    held, plain = report.held, None
    if compares and not has_external(model):
        with progress.stage("Compiling without channels kept for speed"):
            plain = passes.report_with(model, shrunk)
        held = tuple(_told_apart(held, plain.held, _ADVICE if plain.after.flops < report.after.flops else ""))
    kept = sum(len(item.channels) for item in held if item.aligned)
    without = None if plain is None else plain.after.flops
    return held, KeptForSpeed(kept, report.speedup, without), plain or report


def _told_apart(held: Sequence[Held], needed: Sequence[Held], advice: str) -> Iterator[Held]:
    """Kept channels, with those that are not `needed` by the model with the fewest marked as kept for speed.

    `advice` is for those.
    """
    by_axis = channels_by_axis(needed)
    for item in held:
        there = by_axis.get((item.tensor, item.axis), set())
        still = tuple(channel for channel in item.channels if channel in there)
        spare = tuple(channel for channel in item.channels if channel not in there)
        if still:
            yield dataclasses.replace(item, channels=still, advice="")
        if spare:
            yield dataclasses.replace(item, channels=spare, advice=advice, aligned=True, code=SPEED.code)
