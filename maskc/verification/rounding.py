"""Errors of whole outputs that rounding explains: no region differs, and the runtime is not wrong about one model."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import ModelProto

from maskc.errors import RunError, UnavailableError
from maskc.results.measurements import FirstDifference
from maskc.runtime.random_inputs import Inputs
from maskc.runtime.session import Session, load
from maskc.verification.compare_regions import difference, differs_on
from maskc.verification.error_statistics import Distance, farthest
from maskc.verification.inputs import Outputs, Sample
from maskc.verification.regions.checker import MOST
from maskc.verification.regions.search import Proof

# An error so many times as large as another is of another kind.
_APART = 100.0


class Rounding:
    """What explains errors above the tolerance, by sample.

    run: the compiled model in the runtime, of this title. proof: None where regions do not decide; then nothing is
    explained.
    """

    def __init__(
        self,
        reference: ModelProto,
        compiled: ModelProto,
        run: Callable[[Inputs], Outputs],
        proof: Proof | None,
        runtime: str,
    ) -> None:
        self._models, self._run, self._runtime = (reference, compiled), run, runtime
        self._proof = proof if proof is not None and proof.complete else None
        #: the first region that differs on data on which outputs do
        self.difference: FirstDifference | None = None
        self._sessions: list[Session] = []
        self._errors: dict[int, tuple[float, float, float]] = {}
        self._explained: dict[int, bool] = {}
        self._accepted: list[Sample] = []

    def explains(self, name: str, error: Distance, sample: Sample) -> bool:
        """Whether no region differs on the sample, and the runtime is as far off for the reference.

        Or both models as they are written are as far apart, which is then rounding.
        """
        if self._proof is None:
            return False
        if id(sample) not in self._explained:
            self._explained[id(sample)] = self._agrees(self._proof, sample) and self._is_of_both(sample)
            if self._explained[id(sample)]:
                self._accepted.append(sample)
        return self._explained[id(sample)]

    def notes(self, failed: Sample | None) -> list[str]:
        """Sentences on what was accepted, and on the sample that failed where regions agree."""
        found = []
        if failed is not None and self._proof is not None and self.difference is None:
            found.append(self._blame(failed))
        if self._accepted:
            wrong = next((sample for sample in self._accepted if self._is_of_reference(sample)), None)
            found.append(f"Accepted: some errors of whole outputs are above the default tolerance in {self._runtime}.")
            if wrong is None:
                found[-1] += (
                    " All regions agree, so this is rounding that the model magnifies, or what the runtime's own "
                    "optimizations change in both models."
                )
            else:
                found[-1] += f" {self._blame(wrong)}"
        return found

    def _agrees(self, proof: Proof, sample: Sample) -> bool:
        """Whether no region differs on the sample."""
        try:
            failure = differs_on(proof, self._models[0], sample.inputs)
        except Exception:  # of any kind that ONNX Runtime has
            return False
        if failure is None or failure.judgement.error < MOST:  # rounding grows in some regions on some data
            return True
        if self.difference is None:
            self.difference = difference(proof, failure, sample.label)
        return False

    def _is_of_both(self, sample: Sample) -> bool:
        reference, compiled, apart = self._measured(sample)
        return compiled <= _APART * max(reference, apart)

    def _is_of_reference(self, sample: Sample) -> bool:
        reference, compiled, apart = self._measured(sample)
        return reference > _APART * max(compiled, apart)

    def _blame(self, sample: Sample) -> str:
        """Sentences on which of the models the runtime gets wrong."""
        reference, compiled, _ = self._measured(sample)
        what, off = ("compiled model", compiled) if compiled > reference else ("reference", reference)
        if not math.isfinite(off):
            return f"All regions agree, but {self._runtime} does not run the {what} as its operators are written."
        return (
            f"All regions agree, so the models are the same function. The result of {self._runtime} for the {what} is "
            f"off by {off:.3g} of the scale from that of its operators, so {self._runtime} computes it wrongly."
        )

    def _measured(self, sample: Sample) -> tuple[float, float, float]:
        """The runtime's errors for the reference and the compiled model, and how far apart these are as written."""
        if id(sample) not in self._errors:
            try:
                if not self._sessions:
                    self._sessions = [load(model, optimized=False, exact=True) for model in self._models]
                right, other = (session.run(sample.inputs) for session in self._sessions)
                errors = (
                    farthest(right, sample.expected),
                    farthest(other, self._run(sample.inputs)),
                    farthest(right, other),
                )
            except (RunError, UnavailableError):
                errors = math.inf, math.inf, 0.0
            self._errors[id(sample)] = errors
        return self._errors[id(sample)]
