"""Measurements on models: totals, errors and agreement of outputs, their first difference, latency."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from passes.errors.arguments import typed
from passes.sizes.cost_values import Cost, CountedAt


@dataclass(frozen=True)
class Figures:
    """FLOPs and multiply-accumulates `at` these sizes of the inputs, number of weights, and bytes on disk."""

    flops: int
    macs: int
    params: int
    bytes: int
    at: CountedAt = field(default_factory=CountedAt)

    @classmethod
    def from_cost(cls, cost: Cost, size: int) -> Figures:
        """Figures from a count of the graph and the size of its file in bytes."""
        return cls(cost.flops, cost.macs, cost.params, size, cost.at)

    @typed
    def reduction_to(self, after: Figures) -> float:
        """FLOPs before over FLOPs after: 1 when neither has any, infinite when only `after` has none."""
        if after.flops == 0:
            return 1.0 if self.flops == 0 else math.inf
        return self.flops / after.flops


# So many nodes are named beside the one that computes the tensor.
_MOST_NAMED = 5


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the reference, over all samples.

    `max_abs` and `mean_abs` are the largest and the mean absolute error, `max_rel` the largest one relative to its
    sample's scale, and `scale` the largest absolute value of the reference. `ulps` is the largest error in units in
    the last place of the value expected, among values of at least a thousandth of the scale. `top1` is the share of
    rows with the same largest entry, of outputs that look like scores of classes (floats of shape [n, classes]), else
    None. For integers, booleans and text, `max_abs` counts the elements that differ and `max_rel` is their share.
    `explained` holds when the plain tolerance failed, and regions show that rounding alone does so. `reason` says what
    failed, and where. Of NaN and infinity only the places are compared: `compared` elements are none of these.
    `histogram` counts the errors by their magnitude.
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
    compared: int
    histogram: ErrorHistogram | None = None

    @property
    def outcome(self) -> str:
        """In a word or two."""
        return "differs" if not self.passed else "ok" if self.compared else "not compared"


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

    def __str__(self) -> str:
        """One sentence."""
        agree = f"{self.nodes - len(self.unchecked):,} of {self.nodes:,}" if self.unchecked else f"All {self.nodes:,}"
        regions = "one region" if self.count == 1 else f"{self.count:,} regions"
        largest = f"at most {self.largest:,} nodes" if self.largest > 1 else "one node"
        return f"{agree} nodes of the compiled model agree, in {regions} of {largest}."


@dataclass(frozen=True)
class FirstDifference:
    """The first tensor, in the order of the compiled graph, that is not what it should be.

    `node` computes it, of type `op`; `suspects` are the nodes of its region: this one and those before it, back to
    tensors that agree. `source` is the tensor of the source that it should be or be a part of, computed there by
    `source_node` of type `source_op`, both null for an input. `reason` says how they differ, `error` and what is
    `allowed` are relative to the scale of the tensor's slice, and `channel` of `axis` is the worst, null where none is.
    `sample` says on which data.
    """

    tensor: str
    node: str
    op: str
    suspects: tuple[str, ...]
    source: str
    source_node: str | None
    source_op: str | None
    reason: str
    error: float
    allowed: float
    axis: int | None
    channel: int | None
    sample: str

    def __str__(self) -> str:
        """One sentence that says where to look."""
        of_source = ""
        if (self.source, self.source_node) != (self.tensor, self.node):
            by = f", computed by {self.source_op} '{self.source_node}'" if self.source_node else ""
            of_source = f" for '{self.source}' of the source{by}"
        place = "" if self.channel is None else f", most of all in channel {self.channel} of axis {self.axis}"
        others = [name for name in self.suspects if name != self.node]
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        also = f"; the cause is there or in {', '.join(others[:_MOST_NAMED])}{more} before it" if others else ""
        return (
            f"The models first differ at tensor '{self.tensor}', computed by {self.op} '{self.node}'{of_source}: with "
            f"{self.sample}, {self.reason}{place}{also}."
        )


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run of each model: the quartiles of `runs` runs, taken in turns; the second is the median.

    `shapes` says on what data. Both sessions live in this process, on one `provider`, and every run of the one is
    followed by one of the other, so what else the machine does meets both alike. `speedup` is the median over these
    pairs.
    """

    before: tuple[float, float, float]
    after: tuple[float, float, float]
    runs: int
    shapes: dict[str, tuple[int, ...]]
    speedup: float
    provider: str = "cpu"


@dataclass(frozen=True)
class Agreement:
    """How one output of a pruned model compares with the source's, on data that pruning did not use.

    error: the root of the mean square of the difference, of the source's standard deviation about the mean of each
    entry; infinite where shapes differ, None where the output holds no floating-point numbers. top: the share of
    positions at which the largest entry along the last axis is the same, None where that means nothing. positions: how
    many there are. divergence: of probabilities, the mean Kullback-Leibler divergence from the source's, in nats; None
    of other numbers. constant: what is the same of all samples in the source, "output" or "prediction", so that the
    other figures say little.
    """

    output: str
    error: float | None
    top: float | None
    positions: int
    divergence: float | None = None
    constant: str = ""
