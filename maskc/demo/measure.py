"""What the demo reports about an ONNX file: accuracy, cost, size and latency."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc import progress

TIMED_BATCH = 64
TIMED_RUNS = 200


@dataclass(frozen=True)
class Figures:
    """Accuracy is a share, size in bytes, latency in milliseconds for `TIMED_BATCH` images, median of many
    runs."""

    accuracy: float
    flops: int
    params: int
    bytes: int
    latency: float


@progress.stage("Measuring")
def measure(files: Mapping[str, Path], images: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Figures]:
    """Measures each of the ONNX files on the same images, in ONNX Runtime on the CPU.

    The files take turns in being timed, so that whatever else the machine does meets all of them alike.
    """
    import onnx

    from maskc import flops
    from maskc.runtime.session import Session

    sessions = {}
    for name, path in files.items():
        model = onnx.load(path)
        sessions[name] = (Session(model), model.graph.input[0].name)

    def predict(name: str, batch: NDArray[np.float32]) -> NDArray[Any]:
        session, given = sessions[name]
        (scores,) = session.run({given: batch}).values()
        return scores

    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(TIMED_RUNS):
        for name in files:
            start = time.perf_counter()
            predict(name, images[:TIMED_BATCH])
            times[name].append(time.perf_counter() - start)
    figures = {}
    for name, path in files.items():
        cost = flops(path)
        figures[name] = Figures(
            accuracy=float(np.mean(predict(name, images).argmax(axis=1) == labels)),
            flops=cost.flops,
            params=cost.params,
            bytes=path.stat().st_size,
            latency=1000 * float(np.median(times[name])),
        )
    return figures
