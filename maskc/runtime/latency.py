"""Latency of models that are run in turns on the same data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from maskc import progress
from maskc.errors import UnavailableError
from maskc.results.measurements import Latency
from maskc.runtime import isolation
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

    Raises `RunError` when one of them fails, and `UnavailableError` where they run in processes of their own.
    """
    if isolation.suspected:
        raise UnavailableError("Latency is not measured where something has crashed.")
    runs = [partial(session.run, inputs) for session in (before, after)]
    times = in_turns(runs, seconds=seconds, least=least, most=_MOST)
    quartiles = np.percentile(times, (25, 50, 75), axis=0)
    shapes = {name: tuple(array.shape) for name, array in inputs.items()}
    (a, b, c), (d, e, f) = quartiles.T.tolist()
    speedup = float(np.median(times[:, 0] / times[:, 1]))
    return Latency((a, b, c), (d, e, f), len(times), shapes, speedup, provider)


def in_turns(
    runs: Sequence[Callable[[], object]], *, seconds: float, least: int, most: float = math.inf
) -> NDArray[np.float64]:
    """Milliseconds that each takes, a row for each turn, for so many seconds, after some turns to warm up.

    There are at least `least` turns and at most `most`.
    """
    start = time.perf_counter()
    for turn in range(_WARM_UPS):
        if turn and time.perf_counter() > start + seconds / 2:
            break
        for run in runs:
            run()
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < end and len(times) < most):
        row = [0.0] * len(runs)
        for place in range(len(runs)):
            # who goes first changes, so none always finds another's data in the cache
            index = (place + len(times)) % len(runs)
            start = time.perf_counter()
            runs[index]()
            row[index] = (time.perf_counter() - start) * 1e3
        times.append(row)
    return np.array(times)
