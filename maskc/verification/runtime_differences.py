"""What a runtime makes of two models otherwise than their operators, one by one, say."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import ModelProto

from maskc.errors import RunError, UnavailableError
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.runtime.random_inputs import Inputs
from maskc.verification.error_statistics import farthest
from maskc.verification.inputs import Outputs, Sample

# An error so many times as large as another is of another kind.
_APART = 100.0


class RuntimeDifferences:
    """How far a runtime's outputs of two models are from those of their operators as they are written, by sample.

    run: the compiled model in the runtime.
    """

    def __init__(self, reference: ModelProto, compiled: ModelProto, run: Callable[[Inputs], Outputs]) -> None:
        self._models, self._run = (reference, compiled), run
        self._sessions: list[OnnxRuntimeSession] = []
        self._errors: dict[int, tuple[float, float, float]] = {}

    def are_of_both(self, sample: Sample) -> bool:
        """Whether the runtime is as far off for the reference, or the models as written are as far apart."""
        reference, compiled, apart = self._measured(sample)
        return compiled <= _APART * max(reference, apart)

    def told(self, sample: Sample, runtime: str) -> str:
        """A sentence on which of the models the runtime gets wrong."""
        reference, compiled, _ = self._measured(sample)
        what, off = ("compiled model", compiled) if compiled > reference else ("reference", reference)
        if not math.isfinite(off):
            return f"All regions agree, but {runtime} does not run the {what} as its operators are written."
        return (
            f"All regions agree, so the models are the same function. The result of {runtime} for the {what} is off by "
            f"{off:.3g} of the scale from that of its operators as they are written, so {runtime} computes it wrongly."
        )

    def _measured(self, sample: Sample) -> tuple[float, float, float]:
        """The runtime's errors for the reference and the compiled model, and how far apart these are as written."""
        if id(sample) not in self._errors:
            try:
                if not self._sessions:
                    self._sessions = [OnnxRuntimeSession(model, optimized=False, exact=True) for model in self._models]
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
