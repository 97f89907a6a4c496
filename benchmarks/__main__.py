"""All benchmarks, one after the other: python -m benchmarks, or `make bench`, or `make bench ONLY="growth dense"`.

Each runs in a process of its own with nothing beside it and writes its record. What needs something that is not
installed is skipped, with the reason, and one that fails does not stop the others. At the end the page
benchmarks/pages/benchmarks.md is made of all records.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks import page


@dataclass(frozen=True)
class Step:
    """One benchmark: its module, what else it needs, and how it is started."""

    name: str
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


STEPS = (
    Step("compiled"),
    Step("dense"),
    Step("speedup", ("openvino",)),
    Step("widths"),
    Step("growth"),
    Step("large"),
    Step("macs", ("tensorflow", "keras", "tf2onnx")),
    Step("tf2onnx_time", ("tensorflow", "keras", "tf2onnx")),
    Step("peers"),
    Step("torch_pruning"),
    Step("pruning", ("tensorflow", "keras", "tf2onnx")),
    Step("pruned_quality", ("tensorflow", "keras", "sklearn", "matplotlib")),
    Step("overhead", ("tensorflow", "keras")),
    Step("schedules", ("tensorflow", "keras")),
    Step("shrinking", ("tensorflow", "keras")),
    Step("shrinking_training", ("tensorflow", "keras", "sklearn")),
    Step("mct", ("tensorflow", "keras", "sklearn")),
    Step("cuda"),
    Step("mutations"),
    Step("robustness"),
    Step("interruptions", ("tensorflow", "keras", "tf2onnx")),
)


def missing(step: Step) -> str:
    """Why a step cannot be run here, or nothing."""
    if importlib.util.find_spec(f"benchmarks.{step.name}") is None:
        return "there is no such benchmark"
    absent = [name for name in step.needs if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} is not installed" if absent else ""


def main() -> int:
    """Run the steps; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"some of {', '.join(step.name for step in STEPS)}")
    names = parser.parse_args().only
    unknown = set(names) - {step.name for step in STEPS}
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    told = []
    for step in (step for step in STEPS if not names or step.name in names):
        reason = missing(step)
        if reason:
            told.append(f"{step.name}: skipped, {reason}")
            continue
        print(f"{step.name} begins", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{step.name}", *step.arguments], check=False)
        verdict = "done" if done.returncode == 0 else f"failed with {done.returncode}"
        told.append(f"{step.name}: {verdict}, {time.perf_counter() - start:.0f} s")
    page.write()
    print("\n".join(told))
    return int(any("failed" in line for line in told))


if __name__ == "__main__":
    sys.exit(main())
