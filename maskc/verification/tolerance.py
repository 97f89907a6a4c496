"""Is an error rounding or a difference? By a tolerance for type and depth, and by the noise of the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from maskc.errors import RunError
from maskc.frontend.graphs import all_graphs, array_of, float_types
from maskc.results.measurements import OutputError
from maskc.runtime.random_inputs import Inputs
from maskc.verification.error_statistics import Statistics
from maskc.verification.rounding_noise import Noise, Outputs, Sample, distance

# What is allowed at most, by type; everything else that is a float has half precision or less.
RTOL: dict[int, float] = {TensorProto.DOUBLE: 1e-12, TensorProto.FLOAT: 1e-5}
RTOL_HALF = 1e-3

# Roundings that an output may be away for each node on the longest way to it. They add up like the steps of a
# drunkard's walk, so with the square root of the depth. Measured on correct compilations of random networks.
ROUNDINGS = 8.0

Run = Callable[[Inputs], Outputs]


def tolerance(dtype: np.dtype[Any], depth: int) -> float:
    """The error allowed of an output relative to its scale: 8 roundings times the square root of the depth.

    At most 1e-12 for doubles, 1e-5 for singles and 1e-3 for what has half precision or less.
    """
    bits = 8 * dtype.itemsize // (2 if dtype.kind == "c" else 1)
    most = {64: RTOL[TensorProto.DOUBLE], 32: RTOL[TensorProto.FLOAT]}.get(bits, RTOL_HALF)
    unit = {64: 2.0**-52, 32: 2.0**-23}.get(bits, 2.0**-10)
    return min(most, ROUNDINGS * unit * math.sqrt(max(depth, 1)))


def coarsest(model: ModelProto, depth: int) -> float:
    """The tolerance of the coarsest type in the graph: a double computed from singles is no better than they are."""
    types: dict[int, type] = {TensorProto.DOUBLE: np.float64, TensorProto.FLOAT: np.float32}
    found = (np.dtype(types.get(type_, np.float16)) for type_ in float_types(model))
    return max((tolerance(dtype, depth) for dtype in found), default=0.0)


def depths(model: ModelProto) -> dict[str, int]:
    """For each tensor of the main graph, the number of nodes on the longest way to it."""
    found: dict[str, int] = {}
    for node in model.graph.node:
        depth = 1 + max((found.get(name, 0) for name in node.input), default=0)
        found.update((name, depth) for name in node.output if name)
    return found


@dataclass
class _Tally:
    """What is known so far about one output."""

    dtype: str = ""
    rtol: float = 0.0
    statistics: Statistics = field(default_factory=Statistics)
    noise: float | None = None
    reason: str | None = None
    sample: Sample | None = None


@dataclass(frozen=True)
class Pair:
    """Two sides to compare: what is expected of a sample, and the model that must agree.

    `factor` widens the tolerance; `actual_name` is what a sentence calls the model.
    """

    against: str
    expected: Callable[[Sample], Outputs]
    actual: Run
    actual_name: str
    factor: float = 1.0


@dataclass(frozen=True)
class Verdicts:
    """What a judge found: errors per output, sentences about what failed, and the first sample that failed."""

    errors: tuple[OutputError, ...]
    failures: tuple[str, ...]
    sample: Sample | None


@dataclass(frozen=True)
class Judge:
    """Decides on errors, by the tolerances given and the noise of the reference."""

    noise: Noise
    reference: ModelProto
    rtol: float | None
    atol: float

    def verdicts(self, pairs: Sequence[Pair], data: Sequence[Sample]) -> Verdicts:
        """All errors, and a sentence for everything that failed."""
        errors: list[OutputError] = []
        failures: list[str] = []
        sample = None
        for pair in pairs:
            # The compiled model is compared with the conversion first; if they agree, the conversion is at fault.
            blame = "; tf2onnx converted the model wrongly" if pair.against == "TensorFlow" and not failures else ""
            found, failure, where = self._errors(pair, data)
            errors += found
            failures += [failure] if failure else []
            failures += [
                f"Output '{error.name}' is not what {pair.against} computes from the reference: {error.reason}{blame}."
                for error in found
                if not error.passed
            ]
            sample = sample or where
        return Verdicts(tuple(errors), tuple(failures), sample)

    def _errors(self, pair: Pair, data: Sequence[Sample]) -> tuple[list[OutputError], str | None, Sample | None]:
        """Errors per output over all samples, a sentence if the model cannot be run on some, and where it failed."""
        tallies = {name: _Tally() for name in data[0].expected}
        depth = depths(self.reference)
        rtols = {name: coarsest(self.reference, depth.get(name, 1)) for name in tallies}
        failure = where = None
        for sample in data:
            try:
                got = pair.actual(sample.inputs)
            except RunError as error:
                failure = f"With {sample.label}, {pair.actual_name} cannot be run where the reference can: {error}"
                where = sample
                break
            for name, wanted in pair.expected(sample).items():
                tally = tallies.setdefault(name, _Tally())
                rtol = max(tolerance(wanted.dtype, depth.get(name, 1)), rtols.get(name, 0.0)) * pair.factor
                tally.rtol = self.rtol if self.rtol is not None else rtol
                if name in got:
                    self._add(tally, name, wanted, got[name], sample)
                else:
                    tally.reason = "it is missing"
                if tally.reason is not None and tally.sample is None:
                    tally.sample = sample
        failed = [tally.sample for tally in tallies.values() if tally.sample is not None]
        found = [_told(name, pair.against, tally, self.atol) for name, tally in tallies.items()]
        return found, failure, failed[0] if failed else where

    def _add(self, tally: _Tally, name: str, wanted: NDArray[Any], got: NDArray[Any], sample: Sample) -> None:
        """Take one sample of one output into account."""
        tally.dtype = str(wanted.dtype)
        error = distance(wanted, got)
        if error is None:
            tally.reason = tally.reason or f"with {sample.label}, {_how_unlike(wanted, got, self.reference)}"
            return
        if error.exact:
            tally.rtol = 0.0
        allowed = 0.0 if error.exact else self.atol + tally.rtol * error.scale
        tally.statistics.add(error, wanted, got)
        if error.max_abs <= allowed or tally.reason is not None:
            return
        explained, moved = self.noise.explains(error, allowed, name, sample)
        tally.noise = max(tally.noise or 0.0, moved)
        if explained:
            return
        if error.exact:
            tally.reason = f"with {sample.label}, {error.max_abs:.0f} of {wanted.size} elements differ"
        else:
            tally.reason = (
                f"with {sample.label}, the error is {error.max_abs:.3g} where {allowed:.3g} is allowed "
                f"(largest value {error.scale:.3g})"
            )


def _told(name: str, against: str, tally: _Tally, atol: float) -> OutputError:
    numbers = tally.statistics
    return OutputError(
        name=name,
        against=against,
        dtype=tally.dtype,
        max_abs=numbers.max_abs,
        mean_abs=numbers.mean_abs,
        max_rel=numbers.max_rel,
        ulps=numbers.ulps,
        top1=numbers.top1,
        scale=numbers.scale,
        rtol=tally.rtol,
        atol=atol,
        noise=tally.noise,
        passed=tally.reason is None,
        reason=tally.reason,
        histogram=numbers.histogram,
    )


def _how_unlike(wanted: NDArray[Any], got: NDArray[Any], reference: ModelProto) -> str:
    if wanted.shape != got.shape:
        return f"its shape is {got.shape} where {wanted.shape} is expected"
    if wanted.dtype != got.dtype:
        return f"its type is {got.dtype} where {wanted.dtype} is expected"
    unlike = "its NaNs or infinities are in other places"
    weight = next(_not_finite(reference), None)
    if weight is None:
        return unlike
    return (
        f"{unlike}, where '{weight}' of the reference holds NaN or infinity, and 0 times that is NaN: put zeros there"
    )


def _not_finite(model: ModelProto) -> Iterator[str]:
    """The initializers that hold anything but finite numbers."""
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            values = array_of(tensor)
            if values.dtype.kind in "fc" and not np.isfinite(values).all():
                yield tensor.name
