"""The errors of all outputs over all samples, and which of them rounding does not explain."""

from __future__ import annotations

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
from maskc.verification.output_tolerance import Tolerance

Array = NDArray[Any]

# How a failure ends for which only the conversion can be blamed, unless the reference is odd.
CONVERSION = "; tf2onnx converted the model wrongly"


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


@dataclass
class _Tally:
    """What is known so far about one output."""

    dtype: str = ""
    rtol: float = 0.0
    statistics: Statistics = field(default_factory=Statistics)
    explained: bool = False
    reason: str | None = None
    sample: Sample | None = None

    def result(self, name: str, against: str, atol: float) -> OutputError:
        """The error of the output of this name."""
        figures = ("max_abs", "mean_abs", "max_rel", "ulps", "top1", "scale", "compared", "histogram")
        return OutputError(
            name,
            against,
            self.dtype,
            rtol=self.rtol,
            atol=atol,
            explained=self.explained and self.reason is None,
            passed=self.reason is None,
            reason=self.reason,
            **{figure: getattr(self.statistics, figure) for figure in figures},
        )


def compare_outputs(
    pairs: Sequence[Pair], data: Sequence[Sample], tolerance: Tolerance
) -> tuple[tuple[OutputError, ...], list[str], Sample | None]:
    """All errors of all pairs, a sentence for everything that failed, and the first sample that did."""
    errors: list[OutputError] = []
    failures: list[str] = []
    samples: list[Sample] = []
    with progress.stage("Comparing", len(pairs) * len(data)) as stage:
        for pair in pairs:
            # The compiled model is compared with the conversion first; if they agree, the conversion is at fault.
            blame = CONVERSION if pair.against == "TensorFlow" and not failures else ""
            tallies: dict[str, _Tally] = {name: _Tally() for name in data[0].expected}
            stopped: list[Sample] = []
            for sample in data:
                stage.advance(note=f"with {pair.against}")
                try:
                    actual = pair.actual(sample.inputs)
                except (RunError, CrashError) as error:
                    what = f"{pair.actual_name} cannot be run where the reference can"
                    failures.append(f"With {sample.label}, {what}: {error}")
                    stopped.append(sample)
                    break
                for name, expected in pair.expected(sample).items():
                    _add(tallies.setdefault(name, _Tally()), name, expected, actual.get(name), sample, tolerance, pair)
            found = [tally.result(name, pair.against, tolerance.atol) for name, tally in tallies.items()]
            errors += found
            failures += [
                f"Output '{error.name}' is not what {pair.against} computes from the reference: {error.reason}{blame}."
                for error in found
                if not error.passed
            ]
            samples += [*(tally.sample for tally in tallies.values() if tally.sample is not None), *stopped]
    return tuple(errors), failures, samples[0] if samples else None


def _add(
    tally: _Tally, name: str, wanted: Array, got: Array | None, sample: Sample, tolerance: Tolerance, pair: Pair
) -> None:
    """Take one sample of one output into account."""
    tally.dtype, tally.rtol = str(wanted.dtype), tolerance.relative(name, wanted.dtype, pair.factor)
    reason = ""
    error = None if got is None else distance(wanted, got)
    if got is None:
        reason = "it is missing"
    elif error is None:
        reason = f"with {sample.label}, {_structural_difference(wanted, got)}"
    else:
        tally.statistics.add(error, wanted, got)
        tally.rtol = 0.0 if error.exact else tally.rtol
        allowed = 0.0 if error.exact else tolerance.atol + max(tally.rtol * error.scale, tolerance.near_zero(name))
        if error.max_abs > allowed and tally.reason is None:
            if pair.explained(name, error, sample):
                tally.explained = True
            elif error.exact:
                reason = f"with {sample.label}, {error.max_abs:.0f} of {wanted.size} elements differ"
            else:
                reason = (
                    f"with {sample.label}, the error is {error.max_abs:.3g}, above the tolerance of {allowed:.3g} "
                    f"(largest value {error.scale:.3g})"
                )
    if reason and tally.reason is None:
        tally.reason, tally.sample = reason, sample


def _structural_difference(wanted: Array, got: Array) -> str:
    if wanted.shape != got.shape:
        return f"its shape is {got.shape} where {wanted.shape} is expected"
    if wanted.dtype != got.dtype:
        return f"its type is {got.dtype} where {wanted.dtype} is expected"
    return "its NaNs or infinities are in other places"
