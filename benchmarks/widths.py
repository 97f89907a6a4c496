"""What widths that run faster win: python -m benchmarks.widths [--table TABLE] [NETWORK ...].

Networks with random weights and consistent random masks that close 30, 50 and 70% of the channels, each compiled with
`--align none` and `--align auto`. The source without masks and both results are run in turns in one process, on one
thread; a figure is the median of the ratios of neighbouring runs, with the quartiles. What is timed is the processor
time of that thread, which on a machine that does other things as well is disturbed less than the time on the clock.

Widths are chosen by the table for this processor, or by the one that is named: the record of another table than that
for AVX-512 is `results/widths-TABLE.json`. It says how many channels ONNX Runtime held in a block while it was taken.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

import passes
from benchmarks import record
from maskc.runtime.detect_cpu import instruction_set, processor, table_name
from passes.targets.onnxruntime.processors import RATES
from passes.targets.widths.rates import Rates
from tests.generators.running import with_sizes
from tests.models import networks

NETWORKS = ("ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121", "Xception")
CLOSED = (0.3, 0.5, 0.7)
KINDS = ("activation", "layer")


def load(name: str, side: int) -> networks.Gated:
    """A network of `keras.applications` for square images with gates, and with biases that masks leave behind."""
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=10)
    for variable in model.weights:
        if variable.path.rsplit("/", 1)[-1] in ("beta", "bias"):
            variable.assign(rng.normal(size=variable.shape) * 0.3)
    return networks._converted(model, name)


def timed(models: list[onnx.ModelProto], seconds: float) -> np.ndarray[Any, Any]:
    """Processor seconds of each run of each model, in turns: [runs, models]."""
    sessions = [record.session(model, 1) for model in models]
    (value,) = sessions[0].get_inputs()
    feeds = {value.name: np.random.default_rng(0).normal(size=value.shape).astype(np.float32)}
    rows: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rows) < 12 or time.perf_counter() < end:
        row = [0.0] * len(sessions)
        for place in range(len(sessions)):
            index = (place + len(rows)) % len(sessions)
            start = time.thread_time()
            sessions[index].run(None, feeds)
            row[index] = time.thread_time() - start
        rows.append(row)
    return np.array(rows[2:])


def quartiles(ratios: np.ndarray[Any, Any]) -> list[float]:
    return [round(q, 4) for q in record.quartiles(ratios)]


def channels_in_a_block() -> int:
    """How many channels ONNX Runtime's convolution kernels hold together here: 16 with AVX-512, 8 without."""
    weights = onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 1, 8, 8)) for name in "xy"]
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = onnx.helper.make_graph([node], "one", ports[:1], ports[1:], [weights])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 13)])
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "one.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return int(onnx.load(options.optimized_model_filepath).graph.initializer[0].dims[0])


def measured(gated: networks.Gated, kind: str, closed: float, seconds: float, rates: Rates) -> dict[str, Any]:
    """One network with one share of its channels closed, and widths chosen by these rates."""
    one = {gated.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param: 1}
    opened = passes.shrink(with_sizes(gated.opened(), one)).model
    masked = with_sizes(gated.masked(kind, consistent=True, keep=1 - closed), one)
    narrow = passes.shrink(masked)
    wide = passes.shrink(masked, align=rates)
    times = timed([opened, narrow.model, wide.model], seconds)
    return {
        "auto_over_none": quartiles(times[:, 2] / times[:, 1]),
        "none_speedup": quartiles(times[:, 0] / times[:, 1]),
        "auto_speedup": quartiles(times[:, 0] / times[:, 2]),
        "flops_ratio_none": narrow.report.before.flops / narrow.report.after.flops,
        "flops_ratio_auto": narrow.report.before.flops / wide.report.after.flops,
        "layers_widened": len(wide.report.widths),
        "passes_seconds": [round(sum(r.report.seconds.values()), 3) for r in (narrow, wide)],
        "milliseconds": [round(1e3 * float(t), 3) for t in np.median(times, axis=0)],
        "runs": len(times),
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--table", choices=RATES, default=table_name())
    arguments = parser.parse_args()
    busy = [round(x, 2) for x in os.getloadavg()]
    console, results = Console(width=120), {}
    table = Table("network, masks, closed", "auto / none (quartiles)", "speed-up none", "auto", "FLOPs ÷", "layers")
    for name in arguments.networks:
        gated = load(name, arguments.side)
        for kind in arguments.kinds:
            for closed in CLOSED:
                row = measured(gated, kind, closed, arguments.seconds, RATES[arguments.table])
                results[f"{name}, {kind}, {closed:.0%}"] = row
                low, middle, high = row["auto_over_none"]
                table.add_row(
                    f"{name}, {kind}, {closed:.0%}",
                    f"{middle:.2f} ({low:.2f} to {high:.2f})",
                    f"{row['none_speedup'][1]:.2f}",
                    f"{row['auto_speedup'][1]:.2f}",
                    f"{row['flops_ratio_auto']:.2f}",
                    str(row["layers_widened"]),
                )
                console.print(f"{name}, {kind}, {closed:.0%}: {middle:.2f}")
                write(results, arguments.side, busy, arguments.table)
    console.print(table)
    mean, largest = summary(results)
    console.print(f"Geometric mean {mean:.3f}, largest {largest:.3f}; goals: 0.90 and 1.03.")


def summary(results: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """The geometric mean of `auto` over `none`, and the largest."""
    ratios = [row["auto_over_none"][1] for row in results.values()]
    return statistics.geometric_mean(ratios), max(ratios)


def write(results: dict[str, dict[str, Any]], side: int, busy: list[float], table: str) -> None:
    """Record what was measured so far."""
    mean, largest = summary(results)
    machine = {
        "processor": processor(),
        "instruction_set": instruction_set(),
        "channels_in_a_block": channels_in_a_block(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load": {"before": busy, "behind": [round(x, 2) for x in os.getloadavg()]},
    }
    ratios = {"geometric_mean": round(mean, 4), "largest": largest}
    name = "widths" if table == "avx512" else f"widths-{table}"
    record.write(name, results, machine=machine, side=side, table=table, auto_over_none=ratios)


if __name__ == "__main__":
    main()
