"""Advice on kept channels, each piece tried in a compilation."""

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
from passes import Shrunk
from passes.pipeline.report import Report
from passes.planning.masked_axes import Held, channels_by_axis


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A compilation in which one piece of advice was followed, and the FLOPs of the model where it was not."""

    words: str
    report: Report
    flops: int

    @property
    def saved(self) -> float:
        """The share of the FLOPs."""
        return 1 - self.report.after.flops / self.flops if self.flops else 0.0

    @property
    def advice(self) -> str:
        """The advice, with the FLOPs that it saves."""
        return f"{self.words} ({self.saved:.1%} fewer FLOPs)"

    def removes(self, item: Held) -> set[int]:
        """The channels that are not kept any more."""
        return set(item.channels) - channels_by_axis(self.report.held).get((item.tensor, item.axis), set())


def with_advice(model: ModelProto, shrunk: Shrunk, report: Report, held: Sequence[Held]) -> tuple[Held, ...]:
    """Kept channels, with advice that removed them in a trial and lowered the FLOPs.

    shrunk: the compiled model. report: of that with the fewest channels, which the trials are compared with; channels
    kept for speed have their advice. Nothing is tried with weights that are too large for memory.
    """
    needed = [item for item in held if not item.aligned]
    if not needed or has_external(model):
        return tuple(held)
    with progress.stage("Trying what would remove the channels that are kept"):
        trials = [trial for trial in _trials(model, shrunk, report, needed) if trial.saved > 0]
    return tuple(part for item in held for part in ([item] if item.aligned else _advised(item, trials)))


def _trials(model: ModelProto, shrunk: Shrunk, report: Report, needed: Sequence[Held]) -> Iterator[_Trial]:
    fewest = dataclasses.replace(shrunk.options, align=None, keeps_analysis=False)
    if masks := _masks_of_others(needed):
        with contextlib.suppress(InputError):  # of a tensor that the file does not have, or one that takes no mask
            changed = apply_masks(model, masks)
            found = passes.shrink(changed, fewest, at=report.before.at.sizes).report
            yield _Trial("share the mask or mask both", found, report.after.flops)
    if shrunk.options.adapters != "always":
        found = passes.report_with(model, shrunk, adapters="always")
        yield _Trial("compile with `--adapters always`", found, report.after.flops)


def _masks_of_others(needed: Sequence[Held]) -> dict[str, NDArray[np.bool_]]:
    """Masks that remove the channels that are kept from what they are combined with."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for other in (item.other for item in needed if item.other is not None):
        mask = masks.setdefault(f"{other.tensor}@{other.axis}", np.ones(other.total, bool))
        mask[list(other.channels)] = False
    return masks


def _advised(item: Held, trials: Sequence[_Trial]) -> Iterator[Held]:
    """The item, in parts where not all of its channels have the same advice."""
    removed = [trial.removes(item) for trial in trials]
    helping = {channel: tuple(channel in some for some in removed) for channel in item.channels}
    for helps, channels in groupby(sorted(item.channels, key=lambda channel: helping[channel]), helping.__getitem__):
        words = [trial.advice for trial, help in zip(trials, helps, strict=True) if help]
        yield dataclasses.replace(item, channels=tuple(sorted(channels)), advice=", or ".join(words))
