"""Errors of whole outputs that rounding explains.

All regions agree, and optimizations move outputs as far, or none differs on these data and the runtime is not wrong
about one model; or, against TensorFlow, whose kernels round otherwise, the reference's outputs move as far when its
weights are rounded.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from maskc.errors import RunError, UnavailableError
from maskc.frontend.graph_queries import all_nodes, all_tensors, array_of, copied, is_external
from maskc.results.measurements import FirstDifference
from maskc.runtime.random_inputs import Inputs
from maskc.runtime.session import Provider, Session, load
from maskc.verification.compare_regions import difference, differs_on, rounded_everywhere, rounding_of_terms
from maskc.verification.error_statistics import Distance, distance, farthest
from maskc.verification.inputs import Outputs, Sample
from maskc.verification.output_tolerance import NOISE_FACTOR
from maskc.verification.random_operators import load_repeatable
from maskc.verification.recheck import MOST
from maskc.verification.regions.search import Proof

# Share of the scale that rounding of saturated outputs may be.
_HALF = 0.5
# An error so many times as large as another is of another kind.
_APART = 100.0

# No error above this share of the scale is slight.
_SLIGHT = 1e-3

_COPIES = 3
# Weights are moved by at most this many units in the last place: one for being stored, one for being combined.
_ULPS = 2.0
# No error above this share of the scale is one of rounding.
_MOST_MOVED = 1e-2
# Operators whose float operands are sizes, not weights.
_SIZED_BY_FLOATS = frozenset({"Resize", "Upsample", "Range"})
_MOVED = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


class Rounding:
    """What explains errors above the tolerance, by sample.

    run: the compiled model in the runtime, of this title. proof: None where regions do not decide; then nothing is
    explained.
    """

    def __init__(
        self,
        models: tuple[ModelProto, ModelProto],
        run: Callable[[Inputs], Outputs],
        proof: Proof | None,
        runtime: str,
    ) -> None:
        self._models, self._run, self._runtime = models, run, runtime
        self._proof = proof if proof is not None and proof.complete else None
        #: the first region that differs on data on which outputs do
        self.difference: FirstDifference | None = None
        self._sessions: list[Session] = []
        self._explained: dict[tuple[str, Sample], bool] = {}
        self._wrong = functools.cache(self._wrong_about)
        self._agrees = functools.cache(self._agrees_on)

    def explains(self, name: str, error: Distance, sample: Sample) -> bool:
        """Whether all regions agree, and it is slight, or likely rounding and no region differs on the sample."""
        if self._proof is None:
            return False
        if (name, sample) not in self._explained:
            what, _, _, moved = self._wrong(sample)
            # no more than optimizations move it is no sign of a fault, for which regions would be run on the sample
            slight = not what and not error.exact and error.max_abs <= error.scale * min(_SLIGHT, NOISE_FACTOR * moved)
            explained = slight or (self._is_likely(self._proof, name, error, sample) and self._agrees(sample))
            self._explained[name, sample] = explained
        return self._explained[name, sample]

    def _is_likely(self, proof: Proof, name: str, error: Distance, sample: Sample) -> bool:
        """Whether the runtime is as far off for the reference, or nothing is left of terms that cancel.

        Or both models as they are written are as far apart, which is then rounding, and less than half the scale unless
        there are steps, or half precision is as far from single.
        """
        what, off, apart, _ = self._wrong(sample)
        source, checker = proof.checker.source, proof.checker
        steps = any(checker.may_step(node, source.inputs) for node in source.nodes)  # all else may be rounded
        # optimizations compute some of half precision in single, and steps in other kernels: the compiled model, too
        coarse = source.coarse > 0
        few = off < (MOST if coarse or steps else 0)
        # half precision may make anything of an output, which single precision then shows
        near = steps or apart < _HALF or (coarse and self._is_rounding(apart, sample.expected, sample))
        likely = near and (what != "compiled model" or few)
        return likely or _is_left_of_terms(self._models[0], name, error, sample)

    def notes(self, failed: Sample | None) -> list[str]:
        """Sentences on what was accepted, and on the sample that failed where regions agree."""
        accepted = [sample for (_, sample), is_explained in self._explained.items() if is_explained]
        found = []
        if failed is not None and self._proof is not None and self.difference is None:
            found.append(self._blame(failed))
        if accepted:
            why = next(filter(None, map(self._blame, accepted)), "") or (
                "All regions agree, so this is rounding that the model magnifies, or what the runtime's own "
                "optimizations change in both models."
            )
            what = f"some errors of whole outputs are above the default tolerance in {self._runtime}"
            found.append(f"Accepted: {what}. {why}")
        return [*filter(None, found)]

    def _agrees_on(self, sample: Sample) -> bool:
        """Whether no region differs on the sample."""
        if (proof := self._proof) is None:
            return False
        try:
            failure = differs_on(proof, self._models[0], sample.inputs)
        except Exception:  # of any kind that ONNX Runtime has
            return False
        if failure is None:
            return True
        self.difference = self.difference or difference(proof, failure, sample.label)
        return False

    def _wrong_about(self, sample: Sample) -> tuple[str, float, float, float]:
        """The model that the runtime alone gets wrong, "" where it does neither or both, and how far off it is.

        And how far apart both are as their operators are written, and the farther of both is from what is written.
        """
        try:
            self._sessions = self._sessions or [
                load_repeatable(model, optimized=False, exact=True) for model in self._models
            ]
            right, other = (session.run(sample.inputs) for session in self._sessions)
        except (RunError, UnavailableError):
            return "", 0.0, 0.0, 0.0
        reference, compiled = farthest(right, sample.expected), farthest(other, self._run(sample.inputs))
        apart = farthest(right, other)
        for what, off, rest in (("compiled model", compiled, reference), ("reference", reference, compiled)):
            if off > _APART * max(rest, apart) and not self._is_rounding(off, right, sample):
                return what, off, apart, off
        return "", 0.0, apart, max(reference, compiled)

    def _is_rounding(self, error: float, right: Outputs, sample: Sample) -> bool:
        """Whether the reference's outputs are about as far from the right ones when each tensor is rounded once more.

        So rounding is estimated in Monte Carlo arithmetic (Parker, 1997).
        """
        if self._proof is None:
            return False
        farther = 0.0
        with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has
            for seed in range(_COPIES):
                moved = rounded_everywhere(self._proof, self._models[0], sample.inputs, seed)
                moves = farthest(right, {name: moved[name].astype(array.dtype) for name, array in right.items()})
                farther = max(farther, moves if math.isfinite(moves) else 0.0)
                if error <= NOISE_FACTOR * farther:
                    return True
        return False

    def _blame(self, sample: Sample) -> str:
        """Sentences on the model that the runtime gets wrong; "" where there is none."""
        what, off, *_ = self._wrong(sample)
        if not what:
            return ""
        if not math.isfinite(off):
            return f"All regions agree, but {self._runtime} does not run the {what} as its operators are written."
        return (
            f"All regions agree, so the models are the same function. The result of {self._runtime} for the {what} is "
            f"off by {off:.3g} of the scale from that of its operators, so {self._runtime} computes it wrongly."
        )


class RoundedWeights:
    """Copies of a model with rounded weights, made when they are first needed."""

    def __init__(self, model: ModelProto, provider: Provider, seed: int) -> None:
        self._model, self._provider, self._rng = model, provider, np.random.default_rng(seed)
        self._sessions: list[Session] = []

    def explains(self, name: str, error: Distance, sample: Sample) -> bool:
        """Whether the error of an output is at most a few times as large as it moves on a sample, and at most 1%.

        Or nothing is left of terms that cancel.
        """
        if not self._sessions:
            self._sessions = [load(rounded(self._model, self._rng), self._provider) for _ in range(_COPIES)]
        farthest = 0.0
        for session in self._sessions:
            with contextlib.suppress(RunError):
                step = distance(sample.expected[name], session.run(sample.inputs)[name])
                farthest = max(farthest, 0.0 if step is None else step.max_abs)
        most = min(NOISE_FACTOR * farthest, (1.0 if error.exact else _MOST_MOVED) * error.scale)
        return error.max_abs <= most or _is_left_of_terms(self._model, name, error, sample)


def _is_left_of_terms(model: ModelProto, name: str, error: Distance, sample: Sample) -> bool:
    """Whether an output and its error are both no larger than what rounding may leave of terms that cancel.

    As behind a normalisation over the batch and a mean of that. Such an output has no digit that is right.
    """
    with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has
        largest = max(error.max_abs, error.scale)
        return not error.exact and largest <= rounding_of_terms(model, sample.inputs, name)
    return False


def rounded(model: ModelProto, rng: np.random.Generator) -> ModelProto:
    """A copy in which the floating-point weights, but for whole numbers, are moved by random roundings."""
    copy = copied(model)
    sizes = {name for node in all_nodes(copy) if node.op_type in _SIZED_BY_FLOATS for name in node.input}
    for tensor in all_tensors(copy):
        if tensor.data_type in _MOVED and tensor.name not in sizes and not is_external(tensor):
            values = array_of(tensor)
            step = _ULPS * np.finfo(values.dtype).eps * rng.uniform(-1, 1, values.shape)
            moved = np.where(np.rint(values) == values, values, values * (1 + step)).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return copy
