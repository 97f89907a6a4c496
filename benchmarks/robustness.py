"""Does maskc end every model in a result or a sentence? python -m benchmarks.robustness --count 20000

First onnx's own test models of its backends, of opset 9 and later, as they are. Then so many mutated ones: fixtures,
onnx's test models and random networks with a few fields of the file changed, some with masks that are mutated as well.
Each is compiled and verified in a process that is watched. It must end within 60 s and 4 GB in a compiled model that
gives the same outputs in ONNX Runtime, or in a MaskcError, with nothing else written. `--shell N` gives so many more to
the command line. What should not be is printed, and the files are kept with `--keep`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import onnx

from benchmarks import record
from benchmarks.hostile import BYTES, FAULTS, SECONDS, Attempts, Case, Ended, is_stated, onnx_test_models
from benchmarks.mutated_models import mutated, mutated_masks
from benchmarks.sections import correctness
from passes.graph.opset_versions import opset_of
from tests.generators.networks import network

ROOT = Path(__file__).parent.parent
OLDEST = 9
# Reasons that are listed; the others are counted.
_LISTED = 12


@cache
def whole() -> tuple[tuple[str, onnx.ModelProto, tuple[dict[str, Any], ...]], ...]:
    """onnx's test models, of opset 9 and later, with their inputs."""
    return tuple(each for each in onnx_test_models() if (opset_of(each[1]) or OLDEST) >= OLDEST)


@cache
def _fixtures() -> tuple[onnx.ModelProto, ...]:
    return tuple(onnx.load(path) for path in sorted((ROOT / "fixtures").glob("*.onnx")))


def subject(rng: Random) -> onnx.ModelProto:
    """A good model to mutate."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(_fixtures())
    return rng.choice(whole())[1] if kind < 0.7 else network(rng.randrange(10**6)).model


def as_it_is(number: int) -> Case:
    """One of onnx's test models."""
    _, model, feeds = whole()[number]
    return Case(model.SerializeToString(), feeds=feeds)


def broken(number: int) -> Case:
    """A mutated model, one in four with a file of masks."""
    rng = Random(number)
    model = subject(rng)
    data = mutated(model, rng) if rng.random() < 0.95 else model.SerializeToString()
    return Case(data, mutated_masks(model, rng) if rng.random() < 0.25 else None)


def in_a_shell(number: int) -> Ended:
    """How `maskc compile` ends for a mutated model: its exit code, one sentence, no signal, nothing left."""
    case = broken(number)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "m.onnx").write_bytes(case.model)
        words = ["compile", "m.onnx", "-o", "out.onnx"]
        if case.masks is not None:
            (directory / "masks.npz").write_bytes(case.masks)
            words += ["--masks", "masks.npz"]
        before = {path.name for path in directory.iterdir()}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "maskc", *words],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
        seconds = round(time.monotonic() - began, 3)
        made = {path.name for path in directory.iterdir()} - before
    said = done.stderr.decode(errors="replace").strip()
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    if done.returncode == 0:
        return Ended("compiled, not compared" if made == {"out.onnx"} else "rubbish", str(sorted(made)), seconds)
    if made:
        return Ended("rubbish", f"{sorted(made)} after: {said}", seconds)
    if "Traceback" in said or "failed unexpectedly" in said or len(errors) != 1:
        return Ended("raw error", said[:300], seconds)
    if done.returncode < 0 or "ended unexpectedly" in said:
        return Ended("died", said[:300], seconds)
    if done.returncode != 2 and not is_stated(said):
        return Ended("wrong", f"exit code {done.returncode}: {said[:300]}", seconds)
    return Ended("slow" if seconds > SECONDS else "refused", errors[0].removeprefix("Error: "), seconds)


class Tally:
    """How cases ended: how many of each kind and reason, what should not be, and what took most."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {}
        self.faults: list[str] = []
        self.seconds = 0.0
        self.bytes = 0

    def add(self, name: str, ended: Ended) -> bool:
        """Count a case; whether it is a fault."""
        self.kinds[ended.kind] += 1
        if ended.said:
            self.reasons.setdefault(ended.kind, Counter())[ended.reason] += 1
        self.seconds, self.bytes = max(self.seconds, ended.seconds), max(self.bytes, ended.bytes)
        if ended.kind in FAULTS:
            self.faults.append(f"{name}: {ended.kind}: {ended.said[:300]}")
        return ended.kind in FAULTS

    def to_json(self) -> dict[str, Any]:
        """The tally as values that `json` can write."""
        return {
            "cases": self.kinds.total(),
            "kinds": dict(self.kinds.most_common()),
            "reasons": {kind: dict(reasons.most_common(_LISTED)) for kind, reasons in self.reasons.items()},
            "most_seconds": round(self.seconds, 1),
            "most_bytes": self.bytes,
            "faults": self.faults,
        }


def run(
    make: Any, numbers: Iterable[int], keep: Path | None = None, minutes: float = float("inf"), jobs: int = 1
) -> Tally:
    """Try the cases of these numbers, or as many as can be done in the time, so many of them at once."""
    tally, end, free = Tally(), time.monotonic() + 60 * minutes, [Attempts(make) for _ in range(jobs)]
    everybody = list(free)

    def tried(number: int) -> tuple[int, Ended] | None:
        if time.monotonic() > end:
            return None
        attempts = free.pop()
        try:
            return number, attempts(number)
        finally:
            free.append(attempts)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            for done, (number, ended) in enumerate(filter(None, pool.map(tried, numbers)), 1):
                _add(tally, make, number, ended, keep)
                if done % 500 == 0:
                    print(f"{done}: {dict(tally.kinds.most_common())}", flush=True)
    finally:
        for attempts in everybody:
            attempts.close()
    return tally


def _add(tally: Tally, make: Any, number: int, ended: Ended, keep: Path | None) -> None:
    if tally.add(f"{make.__name__}({number})", ended):
        print(tally.faults[-1], flush=True)
        if keep is not None:
            case = make(number)
            (keep / f"{make.__name__}-{number}.onnx").write_bytes(case.model)
            if case.masks is not None:
                (keep / f"{make.__name__}-{number}.npz").write_bytes(case.masks)


def main() -> int:
    """Run the campaign and write the record; returns 1 if there are faults."""
    parser = record.parser(__doc__)
    parser.add_argument("--count", type=int, default=2000, help="mutated models, from Python")
    parser.add_argument("--shell", type=int, default=50, help="mutated models, from the shell")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="the most for the mutated, from Python")
    parser.add_argument("--jobs", type=int, default=1, help="how many models at once, from Python")
    parser.add_argument(
        "--only", choices=["onnx", "mutated", "shell"], help="one of the three; the record keeps the others"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where to put the files of what should not be")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    made = record.read("robustness") if options.only else {}
    numbers = range(options.seed, options.seed + options.count)
    if options.only in (None, "onnx"):
        made["onnx"] = run(as_it_is, range(len(whole())), options.keep, jobs=options.jobs).to_json()
    if options.only in (None, "mutated"):
        made["mutated"] = run(broken, numbers, options.keep, options.minutes, options.jobs).to_json()
    if options.only in (None, "shell"):
        tally = Tally()
        for number in range(options.seed + 10**6, options.seed + 10**6 + options.shell):
            _add(tally, broken, number, in_a_shell(number), options.keep)
        made["shell"] = tally.to_json()
    made |= {"limits": {"seconds": SECONDS, "bytes": BYTES}, "date": record.today()}
    record.store("robustness", made)
    print(correctness.robustness(made))
    return int(any(made[key]["faults"] for key in ("onnx", "mutated", "shell") if key in made))


if __name__ == "__main__":
    sys.exit(main())
