"""What compiled models win on an NVIDIA GPU, and what widths and adapters cost there: python -m benchmarks.cuda

Everything that only a GPU can show, in less than eight minutes, so that whoever has one for ten can fill the gap:

* `maskc verify` on the provider, of published models half masked at random, for `--target any` and `cuda`;
* their latency at a batch of 1, 8 and 64, in single precision, as TF32 and in half precision, against themselves
  without masks: medians of runs in turns, inputs and outputs on the device;
* convolutions by their number of channels, and what a Gather or a Pad of channels between two of them takes.

It writes `results/cuda.json`, with the device and its driver. Without a GPU it says what is missing. `--provider cpu`
tries all of it on the CPU and writes nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import maskc
import passes
from benchmarks import record
from benchmarks.published import MODELS, Published
from benchmarks.sections import compiled_models
from maskc.errors import MaskcError
from maskc.runtime.session import choose_provider
from tests.generators.running import required_inputs

TARGETS = ("any", "cuda")
BATCHES = (1, 8, 64)
PRECISIONS = ("float32", "tf32", "float16")
WIDTHS = (16, 24, 29, 31, 32, 33, 36, 40, 48, 57, 60, 63, 64, 65, 72, 96, 120, 127, 128, 129, 136)
SIDE = 28  # of the images of single convolutions, of which a batch has as many as below
BATCH = 8
DEPTH = 8  # convolutions in a row: what one takes is the share of it
SECONDS = 480.0


@dataclass(frozen=True)
class Device:
    """Where models run: the names that ONNX Runtime has for the provider and for its memory."""

    provider: str
    memory: str

    def session(self, model: onnx.ModelProto, *, tf32: bool = False) -> ort.InferenceSession:
        """The model there, and nowhere else."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        given = {"use_tf32": str(int(tf32))} if self.memory == "cuda" else {}
        return ort.InferenceSession(model.SerializeToString(), options, providers=[(self.provider, given)])

    def call(self, session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """A run with inputs and outputs on the device, until it is done."""
        bound = session.io_binding()
        for name, value in feeds.items():
            bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, self.memory, 0))
        for output in session.get_outputs():
            bound.bind_output(output.name, self.memory, 0)

        def run() -> None:
            session.run_with_iobinding(bound)

        return run


DEVICES = {"cuda": Device("CUDAExecutionProvider", "cuda"), "cpu": Device("CPUExecutionProvider", "cpu")}


def verified(published: Published, provider: str) -> dict[str, Any]:
    """Whether the compiled models are the same function there, by target."""
    masked = published.logits()
    found = {}
    for target in TARGETS:
        small = maskc.compile(masked, target=target, verify=False).model
        checked = maskc.verify(masked, small, provider=provider)
        found[target] = {"passed": checked.passed, "error": max(o.max_rel for o in checked.outputs)}
    return found


def latencies(published: Published, device: Device, repeats: int, end: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Quartiles of what the model without masks takes over what the compiled ones take, by batch and precision."""
    source, masked = published.load(fixed=False), published.masked(fixed=False)
    small = {target: maskc.compile(masked, target=target, verify=False).model for target in TARGETS}
    name = required_inputs(source)[0].name
    for batch in BATCHES:
        sizes = (batch, *published.sizes[1:])
        value = published.feeds()[name]
        feeds = {name: np.repeat(value, batch, axis=0)}
        models = {key: passes.fix_sizes(model, {name: sizes}) for key, model in {"source": source, **small}.items()}
        for precision in PRECISIONS:
            if time.perf_counter() > end:
                return
            calls = {}
            for key, model in models.items():
                narrow = _halved(model) if precision == "float16" else model
                calls[key] = device.call(device.session(narrow, tf32=precision == "tf32"), feeds)
            times = record.in_turns(calls, repeats)
            row = {target: record.ratios(times["source"], times[target]) for target in TARGETS}
            milliseconds = 1e3 * float(np.median(times["source"]))
            yield f"{batch}, {precision}", {"source ms": milliseconds, "speedup": row}


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in half precision, with inputs and outputs as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    halved: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    return halved


def stack(width: int, kernel: int, groups: int, between: str = "") -> onnx.ModelProto:
    """Convolutions in a row, each of so many channels; `between`: what moves channels after each."""
    rng = np.random.default_rng(0)
    nodes, weights, data = [], [], "x"
    for k in range(DEPTH):
        values = rng.normal(size=(width, width // groups, kernel, kernel)).astype(np.float32) / width
        weights.append(numpy_helper.from_array(values, f"w{k}"))
        nodes.append(helper.make_node("Conv", [data, f"w{k}"], [f"c{k}"], pads=[kernel // 2] * 4, group=groups))
        data = f"c{k}"
        if between == "Gather":
            weights.append(numpy_helper.from_array(rng.permutation(width), f"i{k}"))
            nodes.append(helper.make_node("Gather", [data, f"i{k}"], [f"g{k}"], axis=1))
            data = f"g{k}"
        elif between == "Pad":
            bounds = {"b": [0], "e": [width - 8], "a": [1], "p": [0, 0, 0, 0, 0, 8, 0, 0]}
            weights += [numpy_helper.from_array(np.array(v), f"{n}{k}") for n, v in bounds.items()]
            nodes.append(helper.make_node("Slice", [data, f"b{k}", f"e{k}", f"a{k}"], [f"s{k}"]))
            nodes.append(helper.make_node("Pad", [f"s{k}", f"p{k}"], [f"g{k}"]))
            data = f"g{k}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [BATCH, width, SIDE, SIDE]) for n in ("x", data)]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], weights)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def microseconds(models: Sequence[onnx.ModelProto], device: Device, repeats: int, *, tf32: bool) -> list[float]:
    """What one convolution of each takes, with what is between, measured in turns."""
    calls = {}
    for k, model in enumerate(models):
        width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        value = np.random.default_rng(k).normal(size=(BATCH, width, SIDE, SIDE)).astype(np.float32)
        calls[str(k)] = device.call(device.session(model, tf32=tf32), {"x": value})
    times = record.in_turns(calls, repeats)
    return [1e6 * float(np.median(times[str(k)])) / DEPTH for k in range(len(models))]


def kernels(device: Device, repeats: int, widths: Sequence[int]) -> dict[str, Any]:
    """Microseconds of convolutions by their width, and of adapters between them."""
    found: dict[str, Any] = {"widths": list(widths)}
    for name, kernel, depthwise in (("1 × 1", 1, False), ("3 × 3", 3, False), ("depthwise 3 × 3", 3, True)):
        models = [stack(width, kernel, width if depthwise else 1) for width in widths]
        for tf32 in (False, True):
            found[f"{name}{', TF32' * tf32}"] = microseconds(models, device, repeats, tf32=tf32)
    plain, gather, pad = microseconds([stack(64, 1, 1, b) for b in ("", "Gather", "Pad")], device, repeats, tf32=False)
    elements = BATCH * 64 * SIDE**2
    found["ns per element"] = {
        "Gather": 1e3 * (gather - plain) / elements,
        "Slice and Pad": 1e3 * (pad - plain) / elements,
    }
    return found


def card() -> str:
    """The GPU and its driver, as nvidia-smi names them."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> int:
    """Measure, print and record it; 0 also where there is no GPU."""
    parser = record.parser(__doc__)
    names = [published.name for published in MODELS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--provider", choices=DEVICES, default="cuda")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    try:
        choose_provider(arguments.provider)
    except MaskcError as error:
        print(f"Nothing was measured: {error}")
        return 0
    device = DEVICES[arguments.provider]
    chosen = [published for published in MODELS if published.name in arguments.only]
    results: dict[str, Any] = {
        "kernels": kernels(device, arguments.repeats, arguments.widths),
        "verified": {},
        "latency": {},
    }
    for published in chosen:
        results["verified"][published.name] = verified(published, arguments.provider)
        rows = latencies(published, device, arguments.repeats, start + SECONDS)
        results["latency"][published.name] = dict(rows)
    given = {"device": card(), "repeats": arguments.repeats}
    record.tell("cuda", results, compiled_models.cuda, dry=arguments.provider == "cpu", **given)
    print(f"{time.perf_counter() - start:.0f} s")
    return int(not all(found["passed"] for row in results["verified"].values() for found in row.values()))


if __name__ == "__main__":
    sys.exit(main())
