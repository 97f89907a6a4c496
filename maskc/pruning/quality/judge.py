"""Verdict on a pruned model: by predictions on data that were held out, and by a measure of the user."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from maskc.frontend import write_model_files
from maskc.progress import stage
from maskc.pruning.data import Data, samples_in
from maskc.pruning.measure import rate
from maskc.pruning.options import PruneOptions
from maskc.pruning.quality.comparison import Comparison, distance
from maskc.results.measurements import Agreement
from maskc.verification.random_operators import load_repeatable

# Of a result that is of use: the share of predictions that are the source's, and the error of other outputs.
_FEWEST, _LARGEST = 0.5, 0.7


@dataclass(frozen=True)
class Verdict:
    """Outputs beside the source's, the user's measure and the mean of the user's loss, None where there is none."""

    agreement: tuple[Agreement, ...]
    quality: float | None = None
    loss: float | None = None


class Judge:
    """A source that models are compared with.

    quality and loss: of the source, by the user's measure and loss; None where there is none. mean_loss: the latter in
    the mean over a batch, of outputs and that. Raises InputError where one of these fails.
    """

    def __init__(
        self, source: ModelProto, examples: Data, options: PruneOptions, mean_loss: Callable[..., Any] | None = None
    ) -> None:
        self._comparison = Comparison(source, next(examples.held_out()))
        self._examples, self._options, self._mean_loss = examples, options, mean_loss
        self.quality = self._rated(source)
        self.loss = self._lost(source)

    def __call__(self, model: ModelProto) -> Verdict:
        """What is to be said of a model."""
        with stage("Measuring quality"):
            agreement = self._comparison(model, self._examples.held_out())
            return Verdict(agreement, self._rated(model), self._lost(model))

    def drop(self, verdict: Verdict) -> tuple[float, str]:
        """How much worse than the source by the user's measure, else the largest share that is lost; in words of what.

        Predictions that are others are lost, and of an output's variance the square of the error: both count, since
        the entries of a dense layer may be classes or numbers.
        """
        if verdict.quality is not None and self.quality is not None:
            worse = self.quality - verdict.quality
            return -worse if self._options.lower_is_better else worse, ""
        lost = [(1 - o.top, f" of the predictions of '{o.output}'") for o in verdict.agreement if o.top is not None]
        lost += [(o.error**2, f" of the variance of '{o.output}'") for o in verdict.agreement if o.error is not None]
        return max(lost, default=(math.inf, ""))

    def collapse(self, verdict: Verdict) -> list[str]:
        """A sentence where little is left of what the source computes, if that is all that counts."""
        if self.quality is not None or self._options.loss is not None:
            return []
        for output in verdict.agreement:
            if output.top is not None and output.top < _FEWEST:
                what = f"Only {output.top:.0%} of the predictions of '{output.output}' are the source's"
            elif output.divergence is None and output.error is not None and output.error > _LARGEST:
                what = f"The error of '{output.output}' is {output.error:.2g}, and that of a constant 1"
            else:
                continue
            more = "for longer" if self._options.trains else "by --minutes"
            return [f"{what}: leave more, train {more}, or let --max-drop find how little it can bear."]
        return []

    @staticmethod
    def constant(verdict: Verdict) -> list[str]:
        """A sentence where the source makes the same of all samples, which no figure shows."""
        told = [output for output in verdict.agreement if output.constant]
        if not told or len(told) < len(verdict.agreement):
            return []
        what = f"{told[0].constant} '{told[0].output}'"
        little = "figures say" if told[0].constant == "output" else "share of these that are the same says"
        return [
            f"The source makes the same {what} of all data that it was measured on, as a constant would, so the "
            f"{little} little: give more samples, and of more kinds."
        ]

    def better(self, one: Verdict, other: Verdict) -> Verdict:
        """The one that drops less by the user's measure, else of smaller loss, or divergence or, of numbers, error.

        They tell more than predictions do: of a few hundred, one or two change by chance.
        """
        if self.quality is not None:
            return min(one, other, key=self.drop)
        return min(one, other, key=lambda seen: distance(seen.agreement) if seen.loss is None else seen.loss)

    def _lost(self, model: ModelProto) -> float | None:
        """The mean of the user's loss on what is held out; infinite where it is no number."""
        if self._mean_loss is None:
            return None
        session, total, count = load_repeatable(model), 0.0, 0
        for batch in self._examples.held_out_with_labels():
            outputs = session.run(self._examples.of_inputs(batch))
            total += float(self._mean_loss(outputs, batch)) * samples_in(batch)
            count += samples_in(batch)
        return total / count if math.isfinite(total) else math.inf

    def _rated(self, model: ModelProto) -> float | None:
        if self._options.quality is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_model_files.write_model(model, path)
            return rate(self._options.quality, path)
