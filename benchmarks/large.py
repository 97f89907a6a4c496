"""Time and memory to compile transformers whose weights are in external files: python -m benchmarks.large."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import marks, record
from benchmarks.marks import PAGES
from benchmarks.sections.parts import where

HERE = Path(__file__).parent
PAGE = PAGES / "performance.md"
MARKS = ("<!-- large: written by benchmarks/large.py -->", "<!-- end of large -->")
GIGABYTES = (0.01, 0.1, 1.0, 8.0)
GOALS = {"time_over_copy": 2.0, "memory": "1.3 x the largest initializer + 400 MB", "slope": 1.1}
HEADS = 16

# Runs the command line, and tells at its end what the process took: peak resident memory, and processor time.
MEASURED = """
import os, sys
from maskc.cli import main
try:
    main()
finally:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = 1024 * int(status["VmHWM"].split()[0])
    with open(os.environ["MEASURED"], "w") as file:
        file.write(f"{peak} {sum(os.times()[:2])}")
"""


class Transformer:
    """A decoder of pre-norm blocks, written to a file while it is made: half of the heads' and inner channels masked.

    Weights are uniform noise from a pool of random numbers, which is drawn once.
    """

    def __init__(self, path: Path, width: int, layers: int, vocabulary: int, seed: int = 0) -> None:
        self.path, self.width = path, width
        self.rng = np.random.default_rng(seed)
        self.pool = self.rng.random(1 << 22, np.float32) - np.float32(0.5)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[TensorProto] = []
        self.largest = 0
        with path.with_name("weights").open("wb") as self.file:
            self._write(layers, vocabulary)

    def _write(self, layers: int, vocabulary: int) -> None:
        x = self.add("Gather", self.weight(vocabulary, self.width), "ids")
        for _ in range(layers):
            x = self.add("Add", x, self.attention(self.norm(x)))
            x = self.add("Add", x, self.perceptron(self.norm(x)))
        y = self.add("MatMul", self.norm(x), self.weight(self.width, vocabulary))
        self.nodes.append(helper.make_node("Identity", [y], ["logits"]))
        graph = helper.make_graph(
            self.nodes,
            "transformer",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", vocabulary])],
            self.stored,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        self.path.write_bytes(model.SerializeToString())

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        name = f"c_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, rows: int, columns: int) -> str:
        name, size = f"w_{len(self.stored)}", 4 * rows * columns
        offset = -(-self.file.tell() // 4096) * 4096
        self.file.seek(offset)
        for chunk in self.noise(rows * columns, rows**-0.5):
            self.file.write(chunk.data)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[rows, columns])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        self.stored.append(tensor)
        self.largest = max(self.largest, size)
        return name

    def noise(self, count: int, scale: float) -> Iterator[NDArray[np.float32]]:
        while count:
            start = int(self.rng.integers(self.pool.size // 2))
            chunk = self.pool[start : start + count] * np.float32(scale)
            yield chunk
            count -= chunk.size

    def linear(self, x: str, into: int, out: int) -> str:
        bias = self.constant(self.rng.random(out, np.float32) - np.float32(0.5))
        return self.add("Add", self.add("MatMul", x, self.weight(into, out)), bias)

    def norm(self, x: str) -> str:
        scale, shift = (self.constant(self.rng.random(self.width, np.float32)) for _ in range(2))
        return self.add("LayerNormalization", x, scale, shift, axis=-1)

    def mask(self, x: str, channels: int, runs: int = 1) -> str:
        keep = np.concatenate([self.rng.permutation(channels // runs) < channels // runs // 2 for _ in range(runs)])
        return self.add("Mul", x, self.constant(keep.astype(np.float32)))

    def attention(self, x: str) -> str:
        split = self.constant(np.asarray([0, 0, HEADS, self.width // HEADS], np.int64))
        merge = self.constant(np.asarray([0, 0, self.width], np.int64))
        q, k, v = (self.linear(x, self.width, self.width) for _ in range(3))
        v = self.mask(v, self.width, HEADS)
        q, k, v = (
            self.add("Transpose", self.add("Reshape", part, split), perm=perm)
            for part, perm in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
        )
        heads = self.add("MatMul", self.add("Softmax", self.add("MatMul", q, k), axis=-1), v)
        return self.linear(
            self.add("Reshape", self.add("Transpose", heads, perm=[0, 2, 1, 3]), merge), self.width, self.width
        )

    def perceptron(self, x: str) -> str:
        inner = 4 * self.width
        return self.linear(self.mask(self.add("Relu", self.linear(x, self.width, inner)), inner), inner, self.width)


def transformer(path: Path, gigabytes: float) -> Transformer:
    """A transformer with about these bytes of weights (1 GB is 10^9 bytes), wider and deeper the more there are."""
    numbers = gigabytes * 1e9 / 4
    width = int(np.clip((numbers / 12 / 12) ** 0.5 // 128 * 128, 128, 2048))
    vocabulary = 16 * width
    layers = max(1, round((numbers - 2 * vocabulary * width) / (12 * width**2)))
    return Transformer(path, width, layers, vocabulary)


def compiled(model: Path, output: Path) -> dict[str, float]:
    """The whole process, in which nothing but the compiler runs: seconds, seconds of the processor, peak memory."""
    told = output.with_name("measured")
    command = [sys.executable, "-c", MEASURED, "compile", str(model), "-o", str(output), "--no-verify", "--quiet"]
    environment = os.environ | {"MEASURED": str(told), "PYTHONPATH": str(HERE.parent)}
    seconds = _seconds(lambda: subprocess.run(command, check=True, env=environment))
    peak, processor = told.read_text().split()
    return {"seconds": seconds, "processor_seconds": float(processor), "peak_bytes": int(peak)}


def copied(directory: Path, target: Path) -> dict[str, float]:
    """`cp` of the files, and until they are on the disk, which is where the compiler's are when it ends."""
    cached = _seconds(lambda: subprocess.run(["cp", "-r", directory, target], check=True))
    synced = _seconds(lambda: subprocess.run(["sync", *sorted(target.iterdir())], check=True))
    return {"copy_seconds": cached, "copy_synced_seconds": cached + synced}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(gigabytes: float, repeats: int, directory: Path) -> dict[str, Any]:
    """Medians over the repeats, in which copies and compilations take turns."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        source, target = Path(name) / "source", Path(name) / "target"
        source.mkdir()
        made = transformer(source / "model.onnx", gigabytes)
        subprocess.run(["sync", source / "weights"], check=True)
        rounds = []
        for _ in range(repeats):
            found = copied(source, target)
            shutil.rmtree(target)
            target.mkdir()
            found |= compiled(source / "model.onnx", target / "model.onnx")
            found["written_bytes"] = sum(file.stat().st_size for file in target.iterdir())
            shutil.rmtree(target)
            rounds.append(found)
        size = sum(file.stat().st_size for file in source.iterdir())
    medians = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    bound = 1.3 * made.largest + 400e6
    return {
        "bytes": size,
        "nodes": len(made.nodes),
        "largest_initializer_bytes": made.largest,
        "memory_bound_bytes": bound,
        "memory_over_bound": max(r["peak_bytes"] for r in rounds) / bound,
        "time_over_copy": statistics.median(r["seconds"] / r["copy_seconds"] for r in rounds),
        "time_over_synced_copy": statistics.median(r["seconds"] / r["copy_synced_seconds"] for r in rounds),
        **medians,
        "rounds": rounds,
    }


def _told(point: dict[str, Any], key: str) -> str:
    return f"{point[key] / 1e6:,.0f}" if key.endswith("bytes") else f"{point[key]:.1f}"


def section(found: dict[str, Any]) -> str:
    """What benchmarks/pages/performance.md says of a run, between its marks."""
    keys = (
        *("bytes", "largest_initializer_bytes", "peak_bytes", "memory_bound_bytes", "processor_seconds", "seconds"),
        *("copy_seconds", "copy_synced_seconds", "written_bytes"),
    )
    rows = ["| " + " | ".join(_told(point, key) for key in keys) + " |" for point in found["results"]]
    return "\n".join(
        [
            "| model, MB | largest initializer, MB | peak memory, MB | bound, MB | processor, s | clock, s "
            "| `cp`, s | `cp` and `sync`, s | written, MB |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"Processor time grows with the power {found['slope']:.2f} of bytes over the whole range.",
            where(found),
        ]
    )


def main() -> None:
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=GIGABYTES)
    parser.add_argument("--directory", type=Path, default=None, help="where to put the models: 2.5 times their size")
    arguments = parser.parse_args()
    points = [measure(size, arguments.repeats, arguments.directory) for size in arguments.gigabytes]
    grown = record.slope(points, "bytes", "processor_seconds")
    made = record.tell("large", points, section, dry=arguments.dry, goals=GOALS, slope=grown)
    if not arguments.dry:
        marks.put(PAGE, MARKS, section(made))


if __name__ == "__main__":
    main()
