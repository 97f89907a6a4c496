"""The errors of all outputs over all samples, and which of them rounding does not explain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from maskc import progress
from maskc.errors import CrashError, RunError
from maskc.results.measurements import OutputError
from maskc.runtime.random_inputs import Inputs
from maskc.verification.error_statistics import Distance, Statistics, distance
from maskc.verification.inputs import Outputs, Sample
from maskc.verification.tolerance import Tolerance

Array = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """Two sides to compare: what is expected of a sample, and the model that must agree.

    `explained` says whether rounding explains an error of an output above the tolerance. `factor` widens the tolerance;
    `actual_name` is what a sentence calls the model.
    """

    against: str
    expected: Callable[[Sample], Outputs]
    actual: Callable[[Inputs], Outputs]
    actual_name: str
    explained: Callable[[str, Distance, Sample], bool]
    factor: float = 1.0


@dataclass(frozen=True)
class OutputErrors:
    """Errors per output, sentences about what failed, and the first sample that failed."""

    errors: tuple[OutputError, ...]
    failures: tuple[str, ...]
    sample: Sample | None


@dataclass
class _Tally:
    """What is known so far about one output."""

    dtype: str = ""
    rtol: float = 0.0
    statistics: Statistics = field(default_factory=Statistics)
    explained: bool = False
    reason: str | None = None
    sample: Sample | None = None


def compare_outputs(pairs: Sequence[Pair], data: Sequence[Sample], tolerance: Tolerance) -> OutputErrors:
    """All errors of all pairs, and a sentence for everything that failed."""
    errors: list[OutputError] = []
    failures: list[str] = []
    first = None
    with progress.stage("Comparing", len(pairs) * len(data)) as stage:
        for pair in pairs:
            # The compiled model is compared with the conversion first; if they agree, the conversion is at fault.
            blame = "; tf2onnx converted the model wrongly" if pair.against == "TensorFlow" and not failures else ""
            found = _compare(_counted(pair, stage), data, tolerance)
            errors += found.errors
            failures += found.failures
            failures += [
                f"Output '{error.name}' is not what {pair.against} computes from the reference: {error.reason}{blame}."
                for error in found.errors
                if not error.passed
            ]
            first = first or found.sample
    return OutputErrors(tuple(errors), tuple(failures), first)


def _counted(pair: Pair, stage: progress.Stage) -> Pair:
    """The pair, with each run of its model a step of the stage."""

    def run(inputs: Inputs) -> Outputs:
        stage.advance(note=f"with {pair.against}")
        return pair.actual(inputs)

    return dataclasses.replace(pair, actual=run)


def _compare(pair: Pair, data: Sequence[Sample], tolerance: Tolerance) -> OutputErrors:
    """The errors of one pair; the failures are of samples on which the model cannot be run."""
    tallies = {name: _Tally() for name in data[0].expected}
    failures, stopped = [], None
    for sample in data:
        try:
            actual = pair.actual(sample.inputs)
        except (RunError, CrashError) as error:
            failures.append(f"With {sample.label}, {pair.actual_name} cannot be run where the reference can: {error}")
            stopped = sample
            break
        for name, expected in pair.expected(sample).items():
            tally = tallies.setdefault(name, _Tally())
            tally.rtol = tolerance.relative(name, expected.dtype, pair.factor)
            if name in actual:
                _add(tally, name, expected, actual[name], sample, tolerance, pair)
            else:
                tally.reason = "it is missing"
            if tally.reason is not None and tally.sample is None:
                tally.sample = sample
    found = tuple(_output_error(name, pair.against, tally, tolerance.atol) for name, tally in tallies.items())
    failed = [tally.sample for tally in tallies.values() if tally.sample is not None]
    return OutputErrors(found, tuple(failures), failed[0] if failed else stopped)


def _add(tally: _Tally, name: str, wanted: Array, got: Array, sample: Sample, tolerance: Tolerance, pair: Pair) -> None:
    """Take one sample of one output into account."""
    tally.dtype = str(wanted.dtype)
    error = distance(wanted, got)
    if error is None:
        tally.reason = tally.reason or f"with {sample.label}, {_structural_difference(wanted, got)}"
        return
    if error.exact:
        tally.rtol = 0.0
    allowed = 0.0 if error.exact else tolerance.atol + tally.rtol * error.scale
    tally.statistics.add(error, wanted, got)
    if error.max_abs <= allowed or tally.reason is not None:
        return
    if pair.explained(name, error, sample):
        tally.explained = True
        return
    if error.exact:
        tally.reason = f"with {sample.label}, {error.max_abs:.0f} of {wanted.size} elements differ"
    else:
        tally.reason = (
            f"with {sample.label}, the error is {error.max_abs:.3g}, above the tolerance of {allowed:.3g} "
            f"(largest value {error.scale:.3g})"
        )


def _output_error(name: str, against: str, tally: _Tally, atol: float) -> OutputError:
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
        explained=tally.explained and tally.reason is None,
        passed=tally.reason is None,
        reason=tally.reason,
        histogram=numbers.histogram,
    )


def _structural_difference(wanted: Array, got: Array) -> str:
    if wanted.shape != got.shape:
        return f"its shape is {got.shape} where {wanted.shape} is expected"
    if wanted.dtype != got.dtype:
        return f"its type is {got.dtype} where {wanted.dtype} is expected"
    return "its NaNs or infinities are in other places"
