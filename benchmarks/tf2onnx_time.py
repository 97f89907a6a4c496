"""maskc compile of SavedModels against tf2onnx's own command, as whole processes: python -m benchmarks.tf2onnx_time.

Both begin with the directory and end with a file, in turns. tf2onnx compares nothing, so maskc is timed without
verification as well as with it. Goal: `maskc compile --no-verify` takes no longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import record
from benchmarks.sections import compiled_models

NETWORKS = ("ResNet50", "ResNet152")
EXPORT = """
import sys
import keras
name, side, path = sys.argv[1:]
keras.utils.set_random_seed(0)
getattr(keras.applications, name)(weights=None, input_shape=(int(side), int(side), 3)).export(path, verbose=False)
"""


def process(*command: object) -> None:
    """Run a command of Python to its end; what it says is shown if it fails."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")


def measured(name: str, side: int, repeats: int) -> dict[str, list[float]]:
    """Quartiles of the seconds of each, and of the ratios turn by turn."""
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "model"), Path(directory, "out.onnx")
        process("-c", EXPORT, name, side, source)
        calls = {
            "tf2onnx": lambda: process("-m", "tf2onnx.convert", "--saved-model", source, "--output", target),
            "maskc, not verified": lambda: process("-m", "maskc", "compile", source, "-o", target, "--no-verify"),
            "maskc": lambda: process("-m", "maskc", "compile", source, "-o", target),
        }
        times = record.in_turns(calls, repeats, warm_ups=0)
    found = {key: record.quartiles(series) for key, series in times.items()}
    ratio = record.ratios(times["maskc, not verified"], times["tf2onnx"])
    return found | {"not verified over tf2onnx": ratio}


def main() -> None:
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), help="names in keras.applications")
    parser.add_argument("--side", type=int, default=224, help="of images, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    results = {name: measured(name, arguments.side, arguments.repeats) for name in arguments.only}
    sizes = {"side": arguments.side, "repeats": arguments.repeats}
    record.tell("tf2onnx", results, compiled_models.tf2onnx, dry=arguments.dry, **sizes)


if __name__ == "__main__":
    main()
