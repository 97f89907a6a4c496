"""What the benchmarks share: options, runs in turns, quartiles, and records that say where and when."""

from __future__ import annotations

import argparse
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
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    *("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnx-graphsurgeon", "openvino"),
    *("tensorflow", "keras", "tf2onnx"),
)


def parser(doc: str | None, *, dry: bool = False) -> argparse.ArgumentParser:
    """The options of a benchmark, of whose module this is the docstring; `dry`: it may be asked to print only."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    if dry:
        made.add_argument("--dry", action="store_true", help="print only")
    return made


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


def quartiles(values: Sequence[float] | NDArray[np.floating]) -> list[float]:
    """The quartiles; the second is the median."""
    return [float(q) for q in np.percentile(values, (25, 50, 75))]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The quartiles of the ratios, turn by turn, so that what else the machine does meets both alike."""
    return quartiles([a / b for a, b in zip(above, below, strict=True)])


def slope(points: Sequence[Mapping[str, Any]], by: str, of: str) -> float:
    """Exponent of growth: slope of the straight line through the points in double logarithmic scale."""
    x, y = (np.log([point[key] for point in points]) for key in (by, of))
    return float(np.polyfit(x, y, 1)[0])


def today() -> str:
    """The date, as records have it."""
    return datetime.date.today().isoformat()


def read(name: str) -> dict[str, Any]:
    """What `results/<name>.json` holds; nothing where it is not there yet."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def store(name: str, record: Mapping[str, Any]) -> None:
    """Write `results/<name>.json` as it is given."""
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write(name: str, results: Any, **more: Any) -> None:
    """Write `results/<name>.json`, with the date, the machine, its load and the versions."""
    store(name, _dated(results, more))


def tell(name: str, results: Any, *sections: Callable[[dict[str, Any]], str], dry: bool, **more: Any) -> dict[str, Any]:
    """Print what the pages say of results, and write them, unless only to print them; returns the record."""
    record = _dated(results, more)
    for section in sections:
        print(section(record))
    if not dry:
        store(name, record)
    return record


def _dated(results: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "date": today(),
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
