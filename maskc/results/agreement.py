"""Agreement of a pruned model's outputs with those of its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """How one output of a pruned model compares with the source's, on data that pruning did not use.

    error: the root of the mean square of the difference, of the source's standard deviation; infinite where shapes
    differ, None where the output holds no floating-point numbers. top: the share of positions at which the largest
    entry along the last axis is the same, None where that means nothing. positions: how many there are. divergence: of
    probabilities, the mean Kullback-Leibler divergence from the source's, in nats; None of other numbers. constant:
    what is the same of all samples in the source, "output" or "prediction", so that the other figures say little.
    """

    output: str
    error: float | None
    top: float | None
    positions: int
    divergence: float | None = None
    constant: str = ""
