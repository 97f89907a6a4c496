"""Other tools on the same masked models: python -m benchmarks.peers.

onnxslim (for its time: it removes no masked channels), OpenVINO's pruning transformation and qonnx's channel pruning.
They come from PyPI into an environment of their own, `.peers`, with no version pinned; what cannot be installed is
skipped, with the reason. Each transforms one model in a process of its own, in turns with `passes`. The table has the
seconds of the transformation, the multiply-adds left, and the error of the outputs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

import passes
from benchmarks import dense, record
from tests.generators.check import random_feeds

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / ".peers"
PACKAGES = {"onnxslim": ("onnxslim",), "openvino": ("openvino",), "qonnx": ("qonnx",)}
SECONDS = 900


def installed(tool: str) -> str:
    """Install a tool; returns why it cannot be, or nothing."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", *PACKAGES[tool], "onnxruntime"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def version_of(tool: str) -> str:
    code = f"from importlib.metadata import version; print(version({tool!r}))"
    done = subprocess.run([ENVIRONMENT / "bin" / "python", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def subjects(side: int) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """The networks of benchmarks/dense.py with half of their channels masked."""
    for name, architecture in dense.NETWORKS.items():
        yield name, lambda architecture=architecture: dense.built(architecture, side, masked=True)


def zeroed(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The channels along axis 1 that multiplications by zeros and ones take away, by the tensor behind."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        mask = stored.get(node.input[1]) if node.op_type == "Mul" else None
        if mask is not None and mask.size > 1 and set(np.unique(mask)) == {0.0, 1.0}:
            found[node.output[0]] = np.flatnonzero(mask.reshape(-1) == 0).tolist()
    return found


def run(tool: str, directory: Path) -> dict[str, Any]:
    """What the tool makes of the model in the directory."""
    command = [ENVIRONMENT / "bin" / "python", HERE / "peer.py", tool, directory]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {SECONDS} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"failed": f"ended with {done.returncode}"}
    told: dict[str, Any] = json.loads(lines[-1])
    if tool == "qonnx" and "failed" not in told:
        told["macs"] = passes.count(onnx.load(directory / "qonnx.onnx")).macs
    return told


def measured(model: onnx.ModelProto, tools: list[str], repeats: int) -> dict[str, Any]:
    feeds = random_feeds(model, 0)
    session = record.session(model, 1)
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(None, feeds), strict=True))
    seconds: dict[str, list[float]] = {}
    rows: dict[str, Any] = {"masked": {"macs": passes.count(model).macs}}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        onnx.save(model, directory / "model.onnx")
        (directory / "spec.json").write_text(json.dumps(zeroed(model)))
        np.savez(directory / "feeds.npz", **feeds)
        np.savez(directory / "expected.npz", **expected)
        for _ in range(repeats):
            start = time.perf_counter()
            shrunk = passes.shrink(model)
            seconds.setdefault("maskc", []).append(time.perf_counter() - start)
            for tool in tools:
                if "failed" not in rows.get(tool, ()):
                    rows[tool] = run(tool, directory)
                    seconds.setdefault(tool, []).append(rows[tool].get("seconds", 0.0))
    outputs = record.session(shrunk.model, 1).run(None, feeds)
    error = max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(outputs, expected.values(), strict=True) if b.size
    )
    rows["maskc"] = {"macs": shrunk.report.after.macs, "error": error}
    for tool, row in rows.items():
        if tool in seconds and "failed" not in row:
            row["seconds"] = record.quartiles(seconds[tool])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--side", type=int, default=224, help="of images, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=dense.NETWORKS, default=list(dense.NETWORKS))
    parser.add_argument("--tools", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--dry", action="store_true", help="print only")
    arguments = parser.parse_args()
    skipped = {tool: reason for tool in arguments.tools if (reason := installed(tool))}
    tools = [tool for tool in arguments.tools if tool not in skipped]
    results = {
        name: measured(load(), tools, arguments.repeats)
        for name, load in subjects(arguments.side)
        if name in arguments.only
    }
    table = Table("network", "tool", "seconds", "MACs left", "error", "")
    for name, rows in results.items():
        most = rows["masked"]["macs"]
        for tool, row in rows.items():
            left = "" if row.get("macs") is None else f"{row['macs'] / most:.3f}"
            error = f"{row['error']:.1e}" if "error" in row else ""
            taken = record.spread(row["seconds"]) if "seconds" in row else ""
            table.add_row(name, tool, taken, left, error, row.get("failed", ""))
    Console(width=160).print(table)
    for tool, reason in skipped.items():
        print(f"{tool} was skipped: {reason}")
    if not arguments.dry:
        peers = {tool: version_of(tool) for tool in tools}
        record.write("peers", results, side=arguments.side, repeats=arguments.repeats, peers=peers, skipped=skipped)


if __name__ == "__main__":
    main()
