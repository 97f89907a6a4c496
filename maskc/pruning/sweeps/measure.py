"""Latency of the candidates of a sweep."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from maskc import frontend
from maskc.results.measurements import Latency
from maskc.runtime.latency import measure
from maskc.runtime.session import Provider, load, strict
from maskc.verification.inputs import one_sample


class Clock:
    """Latency against the source, which stays loaded, on one random sample.

    Raises `RunError`, `NotComparableError` or `UnavailableError` where the source cannot be run.
    """

    def __init__(self, source: ModelProto, provider: Provider, seconds: float) -> None:
        self._provider, self._seconds = provider, seconds
        self._before = load(source, provider)
        self._sample = one_sample(source, strict(self._before, source, provider))

    def time(self, model: Path) -> Latency:
        """Both models in turns. Raises as `load` and `Session.run` do."""
        after = load(frontend.load(model), self._provider)
        return measure(self._before, after, self._sample, self._provider, seconds=self._seconds)
