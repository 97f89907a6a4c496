"""Measurements on two models: errors of outputs, their first difference, latency."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the reference, over all samples.

    `max_abs` and `mean_abs` are the largest and the mean absolute error, `max_rel` the largest one relative to its
    sample's scale, and `scale` the largest absolute value of the reference. `ulps` is the largest error in units in
    the last place of the value expected, among values of at least a thousandth of the scale. `top1` is the share of
    rows with the same largest entry, of outputs that look like scores of classes (floats of shape [n, classes]), else
    None. For integers, booleans and text, `max_abs` counts the elements that differ and `max_rel` is their share.
    `explained` holds when the plain tolerance failed, and regions show that rounding alone does so. `reason` says what
    failed, and where. `histogram` counts the errors by their magnitude.
    """

    name: str
    against: str
    dtype: str
    max_abs: float
    mean_abs: float
    max_rel: float
    ulps: float | None
    top1: float | None
    scale: float
    rtol: float
    atol: float
    explained: bool
    passed: bool
    reason: str | None
    histogram: ErrorHistogram | None = None


@dataclass(frozen=True)
class ErrorHistogram:
    """How many elements of an output are how far from the reference, over all samples.

    `equal` elements are the same to the last bit. `counts[i]` have an error whose decimal logarithm, relative to the
    scale of the sample, lies from `start + i * step` to `start + (i + 1) * step`; the first and the last bin also have
    what lies beyond them. The list begins and ends with a bin that is not empty, and is empty when all are equal.
    """

    equal: int
    start: float
    step: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Regions:
    """The regions in which the compiled model was compared: how many agree, and how many nodes the largest has.

    nodes: those of the compiled model that its outputs need. unchecked: the names of those in no region that agrees.
    """

    count: int
    largest: int
    nodes: int
    unchecked: tuple[str, ...]


@dataclass(frozen=True)
class FirstDifference:
    """The first tensor, in the order of the compiled graph, that is not what it should be.

    `node` makes it there, of type `op`; `suspects` are this node and those before it whose results have no
    counterpart, back to the last tensors that agree. `error` and what is `allowed` are relative to the scale of the
    tensor's slice, and `sample` says on which data. `made_by` says what makes the tensor in the source.
    """

    tensor: str
    node: str
    op: str
    suspects: tuple[str, ...]
    error: float
    allowed: float
    sample: str
    made_by: str

    def __str__(self) -> str:
        """Two sentences that say where to look."""
        others = [name for name in self.suspects if name != self.node]
        also = f", or in {', '.join(others)} before it" if others else ""
        if not math.isfinite(self.error):
            what = "another shape, or NaN or infinity at other positions" if self.allowed else "it cannot be computed"
        else:
            what = f"error {self.error:.3g} of its scale, tolerance {self.allowed:.3g}"
        return (
            f"The models first differ at tensor '{self.tensor}', computed by {self.op} '{self.node}' ({what}; with "
            f"{self.sample}): the cause is there{also}. "
            f"{self.made_by}"
        )


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run of each model: the quartiles of `runs` runs, taken in turns; the second is the median.

    `shapes` says on what data. Both sessions live in this process, on one `provider`, and every run of the one is
    followed by one of the other, so what else the machine does meets both alike.
    """

    before: tuple[float, float, float]
    after: tuple[float, float, float]
    runs: int
    shapes: dict[str, tuple[int, ...]]
    provider: str = "cpu"

    @property
    def speedup(self) -> float:
        """The median before over the median after."""
        return self.before[1] / self.after[1]
