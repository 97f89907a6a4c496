"""Compile time in the passes against nodes and bytes of weights, and for ResNet50: python -m benchmarks.growth."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import onnx

import passes
from benchmarks import dense, marks, record
from benchmarks.chart import Panel, svg
from benchmarks.marks import PAGES
from benchmarks.sections.parts import where
from tests.generators.net import Masks

CHART = PAGES / "compile-time.svg"
NODES = (100, 300, 1_000, 3_000, 10_000)
MEGABYTES = (10, 30, 100, 300, 1_000)
PAGE = PAGES / "performance.md"
MARKS = ("<!-- growth: written by benchmarks/growth.py -->", "<!-- end of growth -->")
GOAL = 0.25  # seconds: ResNet50, in the passes


def masked(side: int = 0) -> dense.Network:
    """A network under construction for images of this side; each mask closes about half of the channels, by itself."""
    net = dense.Network(side, masked=True)
    net.masks = Masks(consistent=False)
    return net


def residual(nodes: int) -> onnx.ModelProto:
    """A residual network with this many nodes, of 8 channels: Conv, BatchNormalization, Relu, mask, Conv, mask, Add."""
    net = masked()
    x = net.conv(net.input("x", ["N", 3, 16, 16], channels=3), 8)
    while len(net.nodes) + 8 <= nodes:
        y = net.mask(net.conv(net.conv_bn_relu(x, 8, 3, "inner"), 8, 1), "outer")
        x = net.relu(net.add("Add", x, y))
    net.output(x, ["N", 8, 16, 16])
    return net.model()


def wide(megabytes: int, layers: int = 20) -> onnx.ModelProto:
    """Matrix products with these bytes of weights in all (1 MB is 10^6 bytes), an activation and a mask behind each."""
    net, width = masked(), int((megabytes * 1e6 / 4 / layers) ** 0.5)
    x = net.input("x", ["N", width], channels=width)
    for _ in range(layers):
        x = net.mask(net.relu(net.dense(x, width, bias=False)), "layer", axis=1, rank=2)
    net.output(x, ["N", width])
    return net.model()


def resnet50() -> onnx.ModelProto:
    """ResNet50 (He et al. 2015) at 224 x 224, with masks over half of the channels behind every activation."""
    net = masked(224)
    dense.resnet50(net, batch="N")
    return net.model()


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


def section(found: dict[str, Any]) -> str:
    """What benchmarks/pages/performance.md says of a run, between its marks."""
    results = found["results"]
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
            where(found),
        ]
    )


def main() -> None:
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES)
    parser.add_argument("--megabytes", type=int, nargs="*", default=MEGABYTES)
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        "resnet50": measure(resnet50(), 3 * arguments.repeats),
        "nodes": [measure(residual(n), arguments.repeats) for n in arguments.nodes],
        "bytes": [measure(wide(m), arguments.repeats) for m in arguments.megabytes],
    }
    for by in ("nodes", "bytes"):
        results[f"slope_{by}"] = record.slope(results[by], by, "seconds_median")
    made = record.tell("growth", results, section, dry=arguments.dry)
    for point in (results["resnet50"], *results["nodes"], *results["bytes"]):
        parts = (f"{part} {share:.0%}" for part, share in point["passes"].items() if share >= 0.05)
        print(f"{point['nodes']:,} nodes, {point['bytes'] / 1e6:,.1f} MB: {', '.join(parts)}")
    print(f"ResNet50: {results['resnet50']['seconds_median']:.3f} s, and {GOAL} s is the goal")
    if not arguments.dry:
        CHART.write_text(chart(results))
        marks.put(PAGE, MARKS, section(made))


if __name__ == "__main__":
    main()
