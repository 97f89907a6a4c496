"""How long two models take, side by side."""

from __future__ import annotations

import time

import numpy as np

from maskc import progress
from maskc.results.measurements import Latency
from maskc.runtime.random_inputs import Inputs
from maskc.runtime.session import Provider, Session

_WARM_UPS = 3
_SECONDS = 2.0
_MOST = 500
_LEAST = 20


@progress.stage("Measuring latency")
def measure(
    before: Session,
    after: Session,
    inputs: Inputs,
    provider: Provider = "cpu",
    *,
    seconds: float = _SECONDS,
    least: int = _LEAST,
) -> Latency:
    """Time both models on the same data for so many seconds, at least `least` runs of each after some to warm up.

    Raises `RunError` when one of them fails.
    """
    sessions = (before, after)
    start = time.perf_counter()
    for turn in range(_WARM_UPS):
        if turn and time.perf_counter() > start + seconds / 2:
            break
        for session in sessions:
            session.run(inputs)
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < _MOST):
        turn = len(times[0]) % 2  # who goes first changes, so neither always finds the other's data in the cache
        for index in (turn, 1 - turn):
            start = time.perf_counter()
            sessions[index].run(inputs)
            times[index].append((time.perf_counter() - start) * 1e3)
    quartiles = [tuple(float(q) for q in np.percentile(series, (25, 50, 75))) for series in times]
    shapes = {name: tuple(array.shape) for name, array in inputs.items()}
    (a, b, c), (d, e, f) = quartiles
    return Latency((a, b, c), (d, e, f), len(times[0]), shapes, provider)
