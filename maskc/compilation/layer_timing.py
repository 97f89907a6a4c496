"""Timing of single convolutions in ONNX Runtime, for `--align measure`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import passes
from maskc import progress
from maskc.errors import NotComparableError, RunError, UnavailableError
from maskc.frontend.import_onnxruntime import import_onnxruntime
from maskc.frontend.one_node import one_node
from maskc.frontend.write_model_files import EMBEDDED_LIMIT, embeds, write_bytes
from maskc.runtime.detect_cpu import processor
from maskc.runtime.latency import in_turns
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.verification.inputs import one_sample
from passes.pipeline.options import ShrinkOptions
from passes.pipeline.order import Shrunk
from passes.pipeline.recorder import Watch
from passes.targets.onnxruntime.processors import ANY
from passes.targets.widths.convolution_shape import ConvolutionShape
from passes.targets.widths.rates import Rates
from passes.weights.external_file import Store

# One layer is run for so many seconds, and so often at least.
_SECONDS = 0.02
_RUNS = 5

# Models are run in turns for so many seconds. What is slower by less may be as fast.
_COMPARED = 2.0
_NOISE = 1.03

# A layer of more multiply-adds than this is timed on fewer places, and the time taken in proportion.
_MOST = 100_000_000

# nanoseconds: no layer takes as long
_LONGEST = 1e15


@dataclass(frozen=True)
class Measured(Rates):
    """Rates of a table, with convolutions timed here instead, each when it is first asked for.

    After `until`, a time of `time.perf_counter`, the table is used in proportion to what was timed.
    """

    until: float = math.inf
    times: dict[str, float] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)

    def convolution(self, shape: ConvolutionShape, read: int, written: int) -> float:
        """Nanoseconds of the convolution itself."""
        form = (shape.kernel, shape.strides, shape.dilations, shape.positions, shape.batch, shape.groups)
        key = json.dumps([*form, shape.depthwise, read, written])
        estimate = super().convolution(shape, read, written)
        if key not in self.times and time.perf_counter() < self.until:
            with contextlib.suppress(Exception):  # a layer that ONNX Runtime cannot run alone
                self.times[key] = timed(shape, read, written)
        if key not in self.times:
            return estimate * (statistics.median(self.ratios) if self.ratios else 1.0)
        self.ratios.append(self.times[key] / max(estimate, 1.0))
        return self.times[key] + self.ns_per_node


def fastest(
    model: onnx.ModelProto,
    options: ShrinkOptions,
    table: Rates | None,
    seconds: float,
    watch: Watch,
    store: Store | None = None,
) -> Shrunk:
    """The compiled model that runs fastest here: with the fewest channels, with widths chosen by timing, or with all.

    All are timed in turns with their source. A model that cannot be run here on random inputs, or whose weights are too
    many to have three such models in memory, is compiled with widths that were chosen by the times of its layers; the
    weights of the latter go to the store.
    """
    large = not embeds(model, EMBEDDED_LIMIT)
    rates, save = measured(table, seconds)
    with progress.stage("Timing layers"):
        kept = store if large else None
        wide = passes.shrink(model, options, align=rates, watch=watch, store=kept)
    save()
    if large:
        return wide
    narrow = passes.shrink(model, options, watch=watch)
    try:
        with progress.stage("Timing the model"):
            ratios = _ratios([model, narrow.model, wide.model])
    except (NotComparableError, RunError, UnavailableError):
        return wide
    against_source, against_narrow = ratios
    best = wide if against_narrow[1] <= 1 else narrow
    slow = against_source[1] if best is wide else against_source[0]
    return passes.shrink(model, options, align="all", watch=watch) if slow > _NOISE else best


def _ratios(models: list[onnx.ModelProto]) -> list[tuple[float, float]]:
    """Medians of the times of the second and third model, over those of the first, and over those of the second."""
    sessions = [OnnxRuntimeSession(model) for model in models]
    sample = one_sample(models[0], sessions[0])
    table = in_turns([partial(session.run, sample) for session in sessions], seconds=_COMPARED, least=_RUNS)
    first, second = (np.median(table[:, 1:] / table[:, [base]], axis=0) for base in (0, 1))
    return [(float(first[0]), float(first[1])), (float(second[0]), float(second[1]))]


def measured(table: Rates | None, seconds: float) -> tuple[Measured, Callable[[], None]]:
    """Rates that time layers for so many seconds, and what stores the times for later.

    They are kept in a folder for such things, by version of ONNX Runtime, processor and number of threads.
    """
    version = import_onnxruntime().__version__
    key = f"{version}|{processor()}|1"
    path = cache_folder() / f"widths-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    table = table or ANY
    # what was timed is not rough, and the model is timed as a whole in the end
    rates = Measured(**vars(table) | {"least_gain_ns": 0.0}, until=time.perf_counter() + seconds)
    rates.times.update(_kept(path, key))

    def save() -> None:
        # what others timed meanwhile stays
        text = json.dumps({"of": key, "nanoseconds": _kept(path, key) | rates.times}, indent=0)
        with contextlib.suppress(OSError):  # a folder that cannot be written costs the time once more
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, text.encode())

    return rates, save


def _kept(path: Path, key: str) -> dict[str, float]:
    """The times in a file, as far as it holds any: it may be damaged, or somebody else's."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    times = stored.get("nanoseconds") if isinstance(stored, dict) and stored.get("of") == key else None
    if not isinstance(times, dict):
        return {}
    return {name: float(t) for name, t in times.items() if isinstance(t, (int, float)) and 0 < t < _LONGEST}


def cache_folder() -> Path:
    """The user's cache folder; `MASKC_CACHE` names another."""
    own = os.environ.get("MASKC_CACHE")
    if own:
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "maskc"
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(named or Path.home() / ".cache") / "maskc"


def timed(shape: ConvolutionShape, read: int, written: int) -> float:
    """Nanoseconds of the convolution alone, without the reordering of its operands: the median of some runs."""
    places, share = list(shape.positions), 1.0
    macs = read * written / shape.groups * shape.taps * shape.batch
    while math.prod(places) * macs > _MOST and len(places) > 1 and places[0] > 8:
        share *= places[0] / (places[0] // 2)
        places[0] //= 2
    model = _layer(shape, places, read, written)
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "layer")
        cpu = ["CPUExecutionProvider"]
        session = ort.InferenceSession(model.SerializeToString(), options, providers=cpu, enable_fallback=0)
        (value,) = session.get_inputs()
        feeds = {value.name: np.random.default_rng(0).normal(size=value.shape).astype(np.float32)}
        end, runs = time.perf_counter() + _SECONDS, 0
        while runs < _RUNS or time.perf_counter() < end:
            session.run(None, feeds)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = (event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"))
    times = [float(event["dur"]) for event in nodes if "Conv" in event["args"].get("op_name", "")]
    faster = sorted(times[1:])[: max(len(times) // 2, 1)]  # what is slower was disturbed
    return 1000 * share * statistics.mean(faster)


def _layer(shape: ConvolutionShape, places: list[int], read: int, written: int) -> onnx.ModelProto:
    """The convolution as a model of its own, without padding."""
    groups = written if shape.depthwise else shape.groups
    windows = zip(places, shape.kernel, shape.strides, shape.dilations, strict=True)
    sizes = [(place - 1) * stride + (kernel - 1) * dilation + 1 for place, kernel, stride, dilation in windows]
    weights = np.random.default_rng(1).normal(size=(written, read // groups, *shape.kernel)).astype(np.float32)
    window: dict[str, Any] = {"kernel_shape": shape.kernel, "strides": shape.strides, "dilations": shape.dilations}
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=groups, **window)
    return one_node(node, [shape.batch, read, *sizes], {"w": weights}, 13)
