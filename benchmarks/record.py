"""What the benchmarks share: runs in turns, quartiles, and records that say where and when."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    *("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnx-graphsurgeon", "openvino"),
    *("tensorflow", "keras", "tf2onnx"),
)


def session(model: onnx.ModelProto | bytes | str, threads: int) -> ort.InferenceSession:
    """The model in ONNX Runtime on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several live at a time
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int, warm_ups: int = 3) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times each: one after the other, beginning with another one every time."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_ups, repeats):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            start = time.perf_counter()
            calls[name]()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def quartiles(values: Sequence[float]) -> list[float]:
    """The quartiles; the second is the median."""
    return [float(q) for q in np.percentile(values, (25, 50, 75))]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The quartiles of the ratios, turn by turn, so that what else the machine does meets both alike."""
    return quartiles([a / b for a, b in zip(above, below, strict=True)])


def spread(values: Sequence[float]) -> str:
    """Quartiles for a table: the median, and the others in brackets."""
    low, middle, high = values
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def write(name: str, results: Any, **more: Any) -> Path:
    """Write `results/<name>.json`, with the date, the machine, its load and the versions."""
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": _processor(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version()} | _versions(),
        **more,
        "results": results,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _processor() -> str:
    """The processor's own name, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
