"""What compilation wins on published models with random masks, in two runtimes: python -m benchmarks.speedup.

Half of the channels of trained models from wheels (`benchmarks/published.py`) are masked, at random and independently
behind each convolution and matrix product. Each masked model is compiled for each target, with the sizes open that its
file leaves open and once more with all of them fixed, and run in ONNX Runtime and in OpenVINO (in single precision), on
one thread and on two, in turns with the model as it was published, without masks. Goals: 2.2 times as fast in ONNX
Runtime with its own target and open sizes and 1.9 in OpenVINO, in the geometric mean; none slower than its source; and
`any` within 1.05 of each runtime's own target.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import maskc
from benchmarks import record
from benchmarks.published import MODELS, Published
from benchmarks.sections import compiled_models
from maskc.runtime.openvino_session import import_openvino

RUNTIMES = ("onnxruntime", "openvino")
TARGETS = ("any", *RUNTIMES)
THREADS = (1, 2)

Feeds = Mapping[str, NDArray[Any]]


def in_onnxruntime(model: onnx.ModelProto, threads: int, feeds: Feeds) -> Callable[[], object]:
    """A run of the model in ONNX Runtime."""
    session = record.session(model, threads)
    return lambda: session.run(None, dict(feeds))


def in_openvino(model: onnx.ModelProto, threads: int, feeds: Feeds) -> Callable[[], object]:
    """A run of the model in OpenVINO, in single precision, one at a time."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = import_openvino().Core()
    request = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options).create_infer_request()
    values = list(feeds.values())
    return lambda: request.infer(values, share_inputs=True)


RUN = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def measured(published: Published, seed: int, fixed: bool, repeats: int) -> dict[str, Any]:
    """One model with the masks of one seed: quartiles of its time over that of each compiled model, by runtime."""
    masked, feeds = published.masked(fixed=fixed, seed=seed), published.feeds()
    models = {"source": published.load(fixed=fixed)}
    models |= {target: maskc.compile(masked, target=target, verify=False).model for target in TARGETS}
    sizes = {name: value.shape for name, value in feeds.items()}
    none = maskc.flops(maskc.compile(masked, align="none", verify=False).model, at=sizes).flops
    row: dict[str, Any] = {"flops_ratio": maskc.flops(models["source"], at=sizes).flops / none, "runtimes": {}}
    for runtime, run in RUN.items():
        for threads in THREADS:
            calls = {key: run(model, threads, feeds) for key, model in models.items()}
            times = record.in_turns(calls, repeats)
            row["runtimes"][f"{runtime}, {threads}"] = {
                "milliseconds": {key: 1e3 * float(np.median(series)) for key, series in times.items()},
                "speedup": {target: record.ratios(times["source"], times[target]) for target in TARGETS},
            }
    return row


def means(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """By sizes, runtime with threads, and target: the geometric mean of the median speed-ups, and the least."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for sizes in ("open", "fixed"):
        rows = [row["runtimes"] for name, row in results.items() if name.endswith(sizes)]
        for key in rows[0] if rows else ():
            for target in TARGETS:
                medians = [row[key]["speedup"][target][1] for row in rows]
                mean = {"mean": statistics.geometric_mean(medians), "least": min(medians)}
                found.setdefault(f"{sizes}, {key}", {})[target] = mean
    return found


def main() -> None:
    parser = record.parser(__doc__, dry=True)
    names = [published.name for published in MODELS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for published in (published for published in MODELS if published.name in arguments.only):
        for seed in arguments.seeds:
            for fixed in (False, True):
                name = f"{published.name}, {seed}, {'fixed' if fixed else 'open'}"
                results[name] = measured(published, seed, fixed, arguments.repeats)
                print(name, {key: row["speedup"] for key, row in results[name]["runtimes"].items()}, flush=True)
    more = {"means": means(results), "repeats": arguments.repeats}
    record.tell("speedup", results, compiled_models.speedup, dry=arguments.dry, **more)


if __name__ == "__main__":
    main()
