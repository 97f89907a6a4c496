"""Ctrl-C at any moment, and compilations in many threads: python -m benchmarks.interruptions

compile, verify, sweep, check and train are each interrupted at random moments, on a transformer of 0.2
gigabytes (train on a small network). Each must end within two seconds of it, with 130 or as if nothing had been, and
leave no file that is not whole. Then small models are compiled in eight threads of one process: the same bytes as alone
are asked for, nothing on stdout, and no memory that grows.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import maskc
from benchmarks import record
from benchmarks.hostile import resident
from benchmarks.large import transformer
from tests.generators.networks import network

ROOT = Path(__file__).parent.parent
GIGABYTES = 0.2
#: seconds that an interrupted command may take
SECONDS = 2.0
#: compilations at a time
THREADS = 8
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}

_SPEC = "features:\n  a: {kind: dense, shape: [4]}\nlabel: label\n"
_NET = {
    "mask_blocks": [{"output_size": 64, "aggregation_size": 64, "input_layer_norm": True}],
    "mlp": {"layer_sizes": [32, 1]},
}


def prepared(directory: Path, gigabytes: float) -> dict[str, list[str]]:
    """The commands by name, and in the directory what they read."""
    transformer(directory / "model.onnx", gigabytes)
    _maskc(directory, "compile", "model.onnx", "-o", "small.onnx", "--no-verify")
    _maskc(directory, "check", "--update", "model.onnx")
    from maskc.train import write_records

    rows = np.random.default_rng(0).normal(size=(4096, 4))
    write_records(directory / "rows.tfrecord", [{"a": row, "label": float(row[0] > 0)} for row in rows])
    (directory / "spec.yaml").write_text(_SPEC)
    (directory / "net.json").write_text(json.dumps(_NET))
    training = (
        "--model net.json --features spec.yaml --data rows.tfrecord -o run --epochs 50 --pruning.flops_target 0.7"
    )
    return {
        "compile": ["compile", "model.onnx", "-o", "out.onnx"],
        "verify": ["verify", "model.onnx", "small.onnx"],
        "sweep": ["sweep", "model.onnx", "--targets", "0.9,0.7", "-o", "levels"],
        "check": ["check"],
        "train": ["train", *training.split(), "--pruning.iter", "10", "--pruning.burn_in", "100"],
    }


def _maskc(directory: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "maskc", *words], cwd=directory, env=_ENVIRONMENT, check=True, stdout=-3)


def interrupted(directory: Path, words: list[str], after: float) -> tuple[float | None, int]:
    """Seconds that a command takes to end when it is interrupted so many seconds after it began, and its exit code.

    None where it had ended before.
    """
    with tempfile.TemporaryFile() as nowhere:
        process = subprocess.Popen(
            [sys.executable, "-m", "maskc", *words], cwd=directory, env=_ENVIRONMENT, stdout=nowhere, stderr=nowhere
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            return None, process.wait(after)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait()
    return time.monotonic() - began, code


def left(directory: Path, before: set[Path]) -> list[str]:
    """What is there and was not, and is neither a whole model, a sweep's, nor a training run's."""
    found = []
    for path in set(directory.rglob("*")) - before:
        whole = path.suffix not in (".part", ".tmp") and not any(part.endswith(".part") for part in path.parts)
        if path.suffix == ".onnx" and path.is_file():
            with contextlib.suppress(Exception):
                onnx.load(path)
                continue
            whole = False
        if not whole:
            found.append(str(path.relative_to(directory)))
    return found


def interruptions(times: int, seed: int, gigabytes: float, chosen: list[str]) -> dict[str, Any]:
    """Each command interrupted so many times, at moments between its start and the end of an undisturbed run."""
    rng, found = random.Random(seed), {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        commands = prepared(directory, gigabytes)
        before = set(directory.rglob("*"))
        for command, words in ((name, commands[name]) for name in chosen or commands):
            began = time.monotonic()
            interrupted(directory, words, 60.0)
            whole = time.monotonic() - began
            _clear(directory, before)
            took, codes, rubbish = list[float](), list[int](), list[str]()
            while len(took) < times:
                seconds, code = interrupted(directory, words, rng.uniform(0.05, whole))
                rubbish += left(directory, before)
                _clear(directory, before)
                if seconds is not None:
                    took.append(seconds)
                    codes.append(code)
            found[command] = {
                "gigabytes": gigabytes,
                "interrupted": len(took),
                "undisturbed_seconds": round(whole, 1),
                "most_seconds": round(max(took), 2),
                "median_seconds": round(float(np.median(took)), 2),
                "codes": {str(code): codes.count(code) for code in sorted(set(codes))},
                "left": rubbish,
            }
            print(command, found[command], flush=True)
    return found


def _clear(directory: Path, before: set[Path]) -> None:
    for path in set(directory.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def in_threads(count: int) -> dict[str, Any]:
    """So many compilations in eight threads, compared with each alone; resident memory at a quarter, and at the end."""
    models = [network(seed).model for seed in range(40)]
    alone = [maskc.compile(model).model.SerializeToString(deterministic=True) for model in models]
    other, memory, printed = 0, [], io.StringIO()

    def same(number: int) -> bool:
        model = models[number % len(models)]
        return bool(maskc.compile(model).model.SerializeToString(deterministic=True) == alone[number % len(models)])

    began = time.monotonic()
    with contextlib.redirect_stdout(printed), ThreadPoolExecutor(THREADS) as pool:
        stdout = sys.stdout
        for done, equal in enumerate(pool.map(same, range(count)), 1):
            other += not equal
            if done in (count // 4, count // 2, count):
                memory.append(resident())
        untouched = sys.stdout is stdout
    return {
        "compilations": count,
        "threads": THREADS,
        "other_bytes": other,
        "printed": printed.getvalue(),
        "stdout_untouched": untouched,
        "resident_bytes": memory,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    """Run both and write the record; returns 1 where something is not as it should be."""
    parser = record.parser(__doc__)
    parser.add_argument("--times", type=int, default=10, help="interruptions of each command")
    parser.add_argument("--count", type=int, default=1000, help="compilations in threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gigabytes", type=float, default=GIGABYTES, help="of weights")
    parser.add_argument("--commands", nargs="*", default=[], help="some of the commands; the record keeps the others")
    parser.add_argument("--only", choices=["interruptions", "threads"], help="one of both; the record keeps the other")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what they start in the background
    made = record.read("interruptions") if options.only else {}
    if options.only in (None, "threads"):
        made["threads"] = in_threads(options.count)
        print(made["threads"])
    if options.only in (None, "interruptions"):
        found = interruptions(options.times, options.seed, options.gigabytes, options.commands)
        made["interruptions"] = (made.get("interruptions", {}) if options.commands else {}) | found
    record.store("interruptions", made | {"date": record.today()})
    late = any(found["most_seconds"] > SECONDS or found["left"] for found in made.get("interruptions", {}).values())
    return int(late or bool(made.get("threads", {}).get("other_bytes")))


if __name__ == "__main__":
    sys.exit(main())
