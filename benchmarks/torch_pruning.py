"""Torch-Pruning against `passes` on the same architectures and channels: python -m benchmarks.torch_pruning.

PyTorch, torchvision, timm and Torch-Pruning come from PyPI into an environment of their own, `.peers/torch` (6 GB).
ResNet50 and DenseNet121 lose half of the channels of each group of coupled layers, ViT-base half of the hidden units
of each block. Torch-Pruning deletes them from the PyTorch network, which is exported then; `passes` shrinks the export
of the whole network in which they are zero. Both take turns, and so do the two results in ONNX Runtime.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import onnx

import maskc
import passes
from benchmarks import record
from benchmarks.peers import HERE, error, installed, python_of, version_of
from benchmarks.sections import pruned_models
from benchmarks.worker import Worker
from tests.generators.running import random_feeds

NETWORKS = ("ResNet50", "DenseNet121", "ViT-base")
PACKAGES = ("torch", "torchvision", "torch-pruning", "timm", "onnx")
SIDE = 224
SECONDS = 600


def measured(name: str, repeats: int, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with Worker([python_of("torch"), "-P", HERE / "torch_peer.py", name, directory, str(SIDE)], SECONDS) as worker:
            told = worker.ask("masked")
            if "failed" in told:
                return told
            masked, filters = (onnx.load(directory / f"{file}.onnx") for file in ("masked", "filters"))
            seconds: dict[str, list[float]] = {"maskc": [], "Torch-Pruning": [], "without its graph": []}
            for turn in range(repeats + 1):
                start = time.perf_counter()
                passes.shrink(masked)
                taken = time.perf_counter() - start
                told = worker.ask("prune")
                if "failed" in told:
                    return told
                if turn:
                    seconds["maskc"].append(taken)
                    seconds["Torch-Pruning"].append(told["seconds"])
                    seconds["without its graph"].append(told["seconds"] - told["graph_seconds"])
            told = worker.ask("result")
        if "failed" in told:
            return told
        pruned = onnx.load(directory / "pruned.onnx")
    constants = passes.shrink(filters)
    feeds = random_feeds(masked, 0)
    models = {"maskc": maskc.compile(masked, verify=False).model, "Torch-Pruning": pruned, "whole": masked}
    latency = {}
    for threads in (1, 2):
        sessions = {key: record.session(model, threads) for key, model in models.items()}
        calls = {key: lambda session=session: session.run(None, feeds) for key, session in sessions.items()}
        latency[f"{threads}"] = record.in_turns(calls, runs)
    outputs = {key: record.session(model, 2).run(None, feeds) for key, model in models.items()}
    kept = record.session(filters, 2).run(None, feeds)
    return {
        "seconds": {key: record.quartiles(series) for key, series in seconds.items()},
        "seconds_over": {
            key: record.ratios(seconds["maskc"], seconds[key]) for key in ("Torch-Pruning", "without its graph")
        },
        "macs": {key: passes.count(model).macs for key, model in models.items()}
        | {"maskc, constants": constants.report.after.macs},
        "milliseconds": {
            threads: {key: [1e3 * q for q in record.quartiles(series)] for key, series in times.items()}
            for threads, times in latency.items()
        },
        "latency_over": {
            threads: record.ratios(times["maskc"], times["Torch-Pruning"]) for threads, times in latency.items()
        },
        "error": {key: error(outputs[key], outputs["whole"]) for key in ("maskc", "Torch-Pruning")},
        "error_constants": {
            "maskc": error(record.session(constants.model, 2).run(None, feeds), kept),
            "Torch-Pruning": error(outputs["Torch-Pruning"], kept),
        },
    }


def main() -> None:
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--repeats", type=int, default=5, help="of the pruning")
    parser.add_argument("--runs", type=int, default=50, help="of the results")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments = parser.parse_args()
    reason = installed("torch", *PACKAGES)
    if reason:
        raise SystemExit(f"Torch-Pruning cannot be installed: {reason}")
    results = {name: measured(name, arguments.repeats, arguments.runs) for name in arguments.only}
    peers = {package: version_of("torch", package) for package in PACKAGES}
    counts = {"repeats": arguments.repeats, "runs": arguments.runs}
    record.tell("torch_pruning", results, pruned_models.torch_pruning, dry=arguments.dry, peers=peers, **counts)


if __name__ == "__main__":
    main()
