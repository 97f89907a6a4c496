"""All benchmarks, one after the other: python -m benchmarks, or `make bench`, or `make bench ONLY="growth dense"`.

Each runs in a process of its own with nothing beside it and writes its record. What needs something that is not
installed is skipped, with the reason, and one that fails does not stop the others. At the end the page
benchmarks/pages/benchmarks.md is made of all records.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time

from benchmarks import page, record

#: what each benchmark needs that may not be installed
STEPS = {
    "compiled": (),
    "dense": (),
    "speedup": ("openvino",),
    "widths": (),
    "growth": (),
    "large": (),
    "macs": ("tensorflow", "keras", "tf2onnx"),
    "tf2onnx_time": ("tensorflow", "keras", "tf2onnx"),
    "peers": (),
    "torch_pruning": (),
    "pruning": ("tensorflow", "keras", "tf2onnx"),
    "pruned_quality": ("tensorflow", "keras", "sklearn", "matplotlib"),
    "overhead": ("tensorflow", "keras"),
    "schedules": ("tensorflow", "keras"),
    "shrinking": ("tensorflow", "keras"),
    "shrinking_training": ("tensorflow", "keras", "sklearn"),
    "mct": ("tensorflow", "keras", "sklearn"),
    "cuda": (),
    "mutations": (),
    "robustness": (),
    "interruptions": ("tensorflow", "keras", "tf2onnx"),
}


def main() -> int:
    """Run the steps; returns 1 if one of them failed."""
    parser = record.parser(__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"some of {', '.join(STEPS)}")
    names = parser.parse_args().only
    unknown = set(names) - STEPS.keys()
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    told = []
    for name, needs in STEPS.items():
        if names and name not in names:
            continue
        absent = [library for library in needs if importlib.util.find_spec(library) is None]
        if absent:
            told.append(f"{name}: skipped, {', '.join(absent)} is not installed")
            continue
        print(f"{name} begins", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False)
        verdict = "done" if done.returncode == 0 else f"failed with {done.returncode}"
        told.append(f"{name}: {verdict}, {time.perf_counter() - start:.0f} s")
    page.write()
    print("\n".join(told))
    return int(any("failed" in line for line in told))


if __name__ == "__main__":
    sys.exit(main())
