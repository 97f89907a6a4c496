"""Both graphs in double precision, in numpy: an error there is one of logic, not of rounding.

What is left to round is what the compiler computed of the weights in the precision that they are stored in: a sum of
biases, say. How much that may be is measured: by how far the reference moves, in double precision, when each of its
weights is rounded once more, and a factor of all weights of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc import progress
from maskc.errors import UnavailableError
from maskc.results.measurements import ExactError
from maskc.results.totals import Figures
from maskc.verification.double_precision.evaluator import Evaluator, has_double, to_double, widen
from maskc.verification.error_statistics import distance
from maskc.verification.inputs import Sample, elements
from maskc.verification.rounding_noise import rounded_weights
from maskc.verification.tolerance import double_floor, relative_error
from passes.errors import in_brief

_COPIES = 3

# FLOPs that are spent on it unless more is asked for: in numpy a few seconds.
BUDGET = 1e8
# And on a sample for which a model would be refused otherwise.
BEFORE_REFUSAL = 2e9


def affordable(samples: Sequence[Sample], model: Figures, budget: float = BUDGET) -> list[Sample]:
    """As many of the samples as numpy computes in a few seconds."""
    chosen: list[Sample] = []
    counted = sum(map(math.prod, model.at.sizes.values())) or min(map(elements, samples), default=1)
    for sample in samples:
        cost = model.flops * elements(sample) / counted
        if cost <= budget:
            chosen.append(sample)
            budget -= cost
    return chosen


def outputs_in_double(model: ModelProto, figures: Figures, sample: Sample) -> dict[str, NDArray[Any]] | None:
    """What the model gives in double precision by name; None where it cannot be had within half a minute."""
    if not has_double(model) or not affordable([sample], figures, BEFORE_REFUSAL):
        return None
    try:
        evaluator = Evaluator(to_double(model))
        return dict(zip(evaluator.outputs, map(np.asarray, evaluator(widen(sample.inputs))), strict=True))
    except Exception:  # whatever the evaluator stumbles over
        return None


class Exact:
    """Two models in double precision. Raises `UnavailableError` when one of them has no such form."""

    def __init__(self, reference: ModelProto, compiled: ModelProto, seed: int) -> None:
        for what, model in (("reference", reference), ("compiled model", compiled)):
            if not has_double(model):
                raise UnavailableError(f"The {what} has operators without a form in double precision.")
        self._floor = double_floor(reference)
        self._source = reference
        self._seed = seed
        self._rounded: list[Evaluator] = []
        #: the first sample on which an output differs
        self.failed: Sample | None = None
        try:
            self._reference = Evaluator(to_double(reference))
            self._compiled = Evaluator(to_double(compiled))
        except Exception as error:
            raise _unable(error) from error

    def compare(self, samples: Sequence[Sample]) -> tuple[ExactError, ...]:
        """The error of each output. Raises `UnavailableError` when the evaluator cannot run a model."""
        found: dict[str, ExactError] = {}
        with progress.stage("Comparing in double precision", len(samples)) as stage:
            for sample in samples:
                moved: list[dict[str, NDArray[Any]]] = []
                feeds = widen(sample.inputs)
                try:
                    wanted = self._run(self._reference, feeds)
                    got = self._run(self._compiled, feeds)
                    errors = (distance(array, got[name]) for name, array in wanted.items())
                    if any(error is not None and error.exceeds(self._floor) for error in errors):
                        moved = [self._run(rounded, feeds) for rounded in self._copies()]
                except Exception as error:
                    raise _unable(error) from error
                for name, array in wanted.items():
                    share, allowed = relative_error(array, got[name], [other[name] for other in moved], self._floor)
                    measured = ExactError(name, share, allowed, share <= allowed, sample.label)
                    if not measured.passed and self.failed is None:
                        self.failed = sample
                    worst = found.get(name)
                    if worst is None or measured.error * worst.allowed > worst.error * measured.allowed:
                        found[name] = measured
                stage.advance(note=sample.label)
        return tuple(found.values())

    def _copies(self) -> list[Evaluator]:
        """The reference with its weights rounded once more, in several ways; made when first needed."""
        if not self._rounded:
            rng = np.random.default_rng(self._seed)
            models = [rounded_weights(self._source, rng, ulps=0.5, together=1.0) for _ in range(_COPIES)]
            self._rounded = [Evaluator(to_double(model)) for model in models]
        return self._rounded

    def _run(self, evaluator: Evaluator, feeds: dict[str, Any]) -> dict[str, NDArray[Any]]:
        values = evaluator(feeds)
        return {name: np.asarray(value) for name, value in zip(evaluator.outputs, values, strict=True)}


def _unable(error: Exception) -> UnavailableError:
    return UnavailableError(f"The reference evaluator of ONNX cannot run the model: {in_brief(error)}.")
