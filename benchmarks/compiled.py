"""Compile time, and latency of compiled models against the masked ones, in one run: python -m benchmarks.compiled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

import passes
from benchmarks import record
from benchmarks.sections import compiled_models
from maskc.frontend.mask_files import apply_masks, read_masks
from maskc.runtime.detect_cpu import table_name
from passes.targets.onnxruntime.processors import RATES
from tests.generators import architectures
from tests.generators.net import Masks
from tests.generators.running import random_feeds

HERE = Path(__file__).parent
NETWORKS = ("vgg", "resnet", "mobilenet", "unet", "bert", "dlrm")


Ranges = dict[str, tuple[int, int]]


def models() -> Iterator[tuple[str, onnx.ModelProto, Ranges]]:
    """The fixtures, and small hand-made networks with half of their channels masked."""
    for path in sorted((HERE.parent / "fixtures").glob("*.onnx")):
        masks = path.with_suffix(".masks.npz")
        model = onnx.load(path)
        yield f"fixtures/{path.stem}", apply_masks(model, read_masks(masks)) if masks.exists() else model, {}
    for name in NETWORKS:
        network = architectures.build(getattr(architectures, name), Masks(consistent=True))
        yield name, network.model(), network.ranges


def measure(model: onnx.ModelProto, ranges: Ranges, repeats: int, threads: int) -> dict[str, float | list[float]]:
    rates = RATES.get(table_name())  # what `maskc compile` goes by
    compiled = passes.shrink(model, align=rates)
    compiling = record.in_turns({"": lambda: passes.shrink(model, align=rates)}, 5, warm_ups=0)[""]
    dims = [d for value in model.graph.input for d in value.type.tensor_type.shape.dim]
    sizes = {d.dim_param: 1 if i == 0 else 32 for i, d in enumerate(dims) if d.dim_param}
    feeds = random_feeds(model, 0, sizes, ranges)
    before, after = record.session(model, threads), record.session(compiled.model, threads)
    runs = {"before": lambda: before.run(None, feeds), "after": lambda: after.run(None, feeds)}
    times = record.in_turns(runs, repeats, warm_ups=10)
    low, middle, high = record.ratios(times["before"], times["after"])
    return {
        "flops_ratio": compiled.report.before.flops / max(compiled.report.after.flops, 1),
        "speedup_median": middle,
        "speedup_quartiles": [low, high],
        "passes_seconds_median": float(np.median(compiling)),
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    results = {name: measure(model, ranges, arguments.repeats, arguments.threads) for name, model, ranges in models()}
    record.tell("compiled", results, compiled_models.compiled, dry=False, threads=arguments.threads)


if __name__ == "__main__":
    main()
