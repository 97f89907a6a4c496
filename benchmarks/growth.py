"""Compile time in the passes against nodes and bytes of weights, and for ResNet50: python -m benchmarks.growth."""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import passes
from benchmarks import circumstances, marks
from benchmarks.chart import Panel, svg
from benchmarks.marks import PAGES

HERE = Path(__file__).parent
CHART = PAGES / "compile-time.svg"
NODES = (100, 300, 1_000, 3_000, 10_000)
MEGABYTES = (10, 30, 100, 300, 1_000)
PAGE = PAGES / "performance.md"
MARKS = ("<!-- growth: written by benchmarks/growth.py -->", "<!-- end of growth -->")
GOAL = 0.25  # seconds: ResNet50, in the passes


class Graph:
    """A model that grows node by node, with a mask over half of the channels wherever it is asked for one."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def weight(self, values: np.ndarray[Any, Any]) -> str:
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        # uniform, as it is drawn several times faster than normal numbers
        return self.weight((self.rng.random(shape, np.float32) - 0.5) * np.float32(scale))

    def conv(self, x: str, into: int, out: int, kernel: int, stride: int = 1) -> str:
        w = self.random(out, into, kernel, kernel, scale=(into * kernel * kernel) ** -0.5)
        return self.add("Conv", x, w, pads=[kernel // 2] * 4, strides=[stride] * 2, kernel_shape=[kernel] * 2)

    def norm(self, x: str, channels: int) -> str:
        rest = [self.weight(self.rng.uniform(0.5, 1.5, channels)) for _ in range(4)]
        return self.add("BatchNormalization", x, *rest)

    def mask(self, x: str, channels: int, rank: int = 4) -> str:
        keep = self.rng.permutation(channels) < channels // 2
        return self.add("Mul", x, self.weight(keep.reshape([1, channels, *[1] * (rank - 2)])))

    def model(self, x: Sequence[int | str], y: str, shape: Sequence[int | str]) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "growth", inputs, outputs)
        graph.initializer.extend(self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def residual(nodes: int) -> onnx.ModelProto:
    """A residual network with this many nodes, of 8 channels: Conv, BatchNormalization, Relu, mask, Conv, mask, Add."""
    net = Graph()
    x = net.conv("x", 3, 8, 3)
    while len(net.nodes) + 8 <= nodes:
        y = net.mask(net.add("Relu", net.norm(net.conv(x, 8, 8, 3), 8)), 8)
        x = net.add("Relu", net.add("Add", x, net.mask(net.conv(y, 8, 8, 1), 8)))
    return net.model(["N", 3, 16, 16], x, ["N", 8, 16, 16])


def wide(megabytes: int, layers: int = 20) -> onnx.ModelProto:
    """Matrix products with these bytes of weights in all (1 MB is 10^6 bytes), an activation and a mask behind each."""
    net = Graph()
    width = int((megabytes * 1e6 / 4 / layers) ** 0.5)
    x = "x"
    for _ in range(layers):
        product = net.add("MatMul", x, net.random(width, width, scale=width**-0.5))
        x = net.mask(net.add("Relu", product), width, rank=2)
    return net.model(["N", width], x, ["N", width])


def resnet50() -> onnx.ModelProto:
    """ResNet50 (He et al. 2015) at 224 x 224, with masks over half of the channels behind every activation."""
    net = Graph()

    def step(x: str, into: int, out: int, kernel: int, stride: int = 1, active: bool = True) -> str:
        y = net.norm(net.conv(x, into, out, kernel, stride), out)
        return net.mask(net.add("Relu", y), out) if active else y

    x, channels = step("x", 3, 64, 7, 2), 64
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = step(x, channels, width, 1)
            y = step(step(y, width, width, 3, stride), width, 4 * width, 1, active=False)
            side = x if block else step(x, channels, 4 * width, 1, stride, active=False)
            channels = 4 * width
            x = net.mask(net.add("Relu", net.add("Add", y, side)), channels)
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    y = net.add("Gemm", flat, net.random(channels, 1000, scale=channels**-0.5), net.random(1000))
    return net.model(["N", 3, 224, 224], y, ["N", 1000])


def measure(model: onnx.ModelProto, repeats: int) -> dict[str, Any]:
    """Medians over the repeats, the first of which is not counted, and the share of each pass.

    `seconds` are of the processor, all threads together: others on the machine change them little. `wall` is the clock.
    """
    times, walls, parts = [], [], []
    for _ in range(repeats + 1):
        gc.collect()
        wall, start = time.perf_counter(), time.process_time()
        result = passes.shrink(model)
        times.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)
        parts.append(result.report.seconds)
    share = {name: float(np.median([p[name] for p in parts[1:]])) for name in parts[0]}
    return {
        "nodes": len(model.graph.node),
        "bytes": sum(len(t.raw_data) for t in model.graph.initializer),
        "seconds_median": float(np.median(times[1:])),
        "seconds": [round(t, 4) for t in times[1:]],
        "wall_seconds_median": float(np.median(walls[1:])),
        "wall_seconds_least": float(min(walls[1:])),
        "passes": {name: round(seconds / sum(share.values()), 3) for name, seconds in share.items()},
    }


def slope(points: Sequence[dict[str, Any]], by: str) -> float:
    """Exponent of the growth: slope of the straight line through the points in double logarithmic scale."""
    x, y = (np.log([point[key] for point in points]) for key in (by, "seconds_median"))
    return float(np.polyfit(x, y, 1)[0])


def chart(results: dict[str, Any]) -> str:
    """Both curves, as SVG."""
    kinds = (("nodes", "nodes", 1), ("bytes", "weights, MB", 1e6))
    return svg(
        [
            Panel(
                f"time grows with the power {results[f'slope_{by}']:.2f} of {by}",
                label,
                "seconds of processor time",
                [(point[by] / unit, point["seconds_median"]) for point in results[by]],
            )
            for by, label, unit in kinds
        ]
    )


def section(record: dict[str, Any]) -> str:
    """What benchmarks/pages/performance.md says of a run, between its marks."""
    results = record["results"]
    rows = [
        f"| {label} | {point['nodes']:,} | {point['bytes'] / 1e6:,.1f} | {point['seconds_median']:.3f} "
        f"| {point['wall_seconds_median']:.3f} | {point['wall_seconds_least']:.3f} |"
        for label, points in (
            ("ResNet50", [results["resnet50"]]),
            ("residual network", results["nodes"]),
            ("matrix products", results["bytes"]),
        )
        for point in points
    ]
    return "\n".join(
        [
            "| | nodes | weights, MB | processor, s | clock, s | clock, least, s |",
            "|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"Time grows with the power {results['slope_nodes']:.2f} of nodes and {results['slope_bytes']:.2f} of",
            "bytes: slopes of the lines through the points.",
            circumstances.told(record),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES)
    parser.add_argument("--megabytes", type=int, nargs="*", default=MEGABYTES)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    results: dict[str, Any] = {
        "resnet50": measure(resnet50(), 3 * arguments.repeats),
        "nodes": [measure(residual(n), arguments.repeats) for n in arguments.nodes],
        "bytes": [measure(wide(m), arguments.repeats) for m in arguments.megabytes],
    }
    for by in ("nodes", "bytes"):
        results[f"slope_{by}"] = slope(results[by], by)
    table = Table("", "nodes", "weights, MB", "seconds", "on the clock", "share of each pass")
    rows = [("ResNet50", results["resnet50"])]
    rows += [(by, point) for by in ("nodes", "bytes") for point in results[by]]
    for name, point in rows:
        table.add_row(
            name,
            f"{point['nodes']:,}",
            f"{point['bytes'] / 1e6:,.1f}",
            f"{point['seconds_median']:.3f}",
            f"{point['wall_seconds_median']:.3f}",
            ", ".join(f"{part} {share:.0%}" for part, share in point["passes"].items() if share >= 0.05),
        )
    console = Console(width=150)
    console.print(table)
    console.print(f"growth with the power {results['slope_nodes']:.2f} of nodes, {results['slope_bytes']:.2f} of bytes")
    console.print(f"ResNet50: {results['resnet50']['seconds_median']:.3f} s, and {GOAL} s is the goal")
    if arguments.dry:
        return
    record = {
        **circumstances.found(load),
        "results": results,
    }
    (HERE / "results" / "growth.json").write_text(json.dumps(record, indent=2) + "\n")
    CHART.write_text(chart(results))
    marks.put(PAGE, MARKS, section(record))


if __name__ == "__main__":
    main()
