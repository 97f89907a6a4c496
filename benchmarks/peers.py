"""Other tools on the same masked models: python -m benchmarks.peers.

onnxslim (for its time: it removes no masked channels), OpenVINO's pruning transformation and qonnx's channel pruning,
on the networks of benchmarks/dense.py and on published models. They come from PyPI into an environment of their own,
`.peers/onnx`, with no version pinned; what cannot be installed is skipped, with the reason. Each works in a process of
its own and takes turns with maskc; the first turn does not count. onnxslim and maskc are given masks as
multiplications, the two others as zeros in weights, which is what they look for, and qonnx the list of channels. maskc
is timed twice: `maskc.compile` with its default options, but without running the models, which checks the model,
chooses widths for this processor and checks the result; and the passes alone, with `--align none`. What it leaves is
that of the latter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import maskc
import passes
from benchmarks import dense, masking, published, record
from benchmarks.sections import compiled_models
from benchmarks.worker import Worker
from maskc.frontend.write_model_files import write_arrays
from tests.double_precision.evaluator import Evaluator, to_double, widen
from tests.generators.running import Feeds, random_feeds

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / ".peers"
SECONDS = 60
ROUNDING = 1e-5  # an error above it is looked at in double precision
ONCE = ("openvino", "qonnx")  # asked for what they leave, not for their time


def installed(environment: str, *packages: str) -> str:
    """Install packages into an environment of peers; returns why they cannot be, or nothing."""
    if not python_of(environment).exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENTS / environment], check=True)
    command: list[str | Path] = [python_of(environment), "-m", "pip", "install", "--quiet", "--no-input", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def python_of(environment: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / "python"


def version_of(environment: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python_of(environment), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@dataclass(frozen=True)
class Subject:
    """A masked model with inputs; `tools` are those it is given to."""

    name: str
    load: Callable[[], onnx.ModelProto]
    feeds: Callable[[onnx.ModelProto], Feeds]
    tools: tuple[str, ...] = ("onnxslim", "openvino", "qonnx")


def chain(net: dense.Network) -> None:
    """Convolutions one after the other, with no branch and no head: what any tool of this kind can shrink."""
    x = net.input("x", [1, 3, net.side, net.side], channels=3)
    for layer in range(6):
        x = net.conv_bn_relu(x, net.wide(64), 3, f"{layer}", stride=2 if layer in (1, 3) else 1)
    net.output(net.conv(x, 10, 1), [1, 10, net.side // 4, net.side // 4])


def subjects(side: int) -> Iterator[Subject]:
    """Networks with half of their channels masked consistently, published ones with half masked after each layer."""
    for name, architecture in {"chain": chain, **dense.NETWORKS}.items():

        def load(architecture: Callable[[dense.Network], None] = architecture) -> onnx.ModelProto:
            return dense.built(architecture, side, masked=True)

        yield Subject(name, load, lambda model: random_feeds(model, 0))
    for model in published.MODELS:
        yield Subject(model.name, model.logits, lambda _, model=model: model.feeds())  # type: ignore[misc]
    for model in published.MODELS:

        def open_sizes(model: published.Published = model) -> onnx.ModelProto:
            return model.masked(fixed=False)

        yield Subject(f"{model.name}, sizes open", open_sizes, lambda _, model=model: model.feeds(), ("onnxslim",))  # type: ignore[misc]


def measured(subject: Subject, tools: list[str], repeats: int) -> dict[str, Any]:
    model = subject.load()
    feeds = subject.feeds(model)
    session = record.session(model, 1)
    expected = session.run(None, feeds)
    rows: dict[str, Any] = {"masked": {"macs": passes.count(model).macs}}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        onnx.save(model, directory / "model.onnx")
        write_arrays(directory / "feeds.npz", feeds)
        np.savez(directory / "expected.npz", **{f"{k:03}": value for k, value in enumerate(expected)})
        if set(tools) & set(ONCE):
            zeros, masks = masking.into_weights(model)
            onnx.save(zeros, directory / "zeros.onnx")
            told = [(mask.tensor, mask.axis, mask.gone) for mask in masks]
            (directory / "masks.json").write_text(json.dumps(told))
            assert error(record.session(zeros, 1).run(None, feeds), expected) < 1e-4, "masks were moved wrongly"
        times = _in_turns(model, tools, directory, repeats, rows)
    shrunk = passes.shrink(model)
    wrong = error(record.session(shrunk.model, 1).run(None, feeds), expected)
    rows["maskc"] = {"macs": shrunk.report.after.macs, "error": wrong}
    rows["maskc"] |= {"seconds": record.quartiles(times["maskc"]), "default": record.quartiles(times["default"])}
    if wrong > ROUNDING:  # whose rounding it is
        exact = Evaluator(to_double(model))(widen(feeds))
        found = {"masked": expected, "maskc": record.session(shrunk.model, 1).run(None, feeds)}
        rows["maskc"]["in_double"] = {key: error(values, exact) for key, values in found.items()}
    if "onnxslim" in times:
        rows["onnxslim"]["seconds"] = record.quartiles(times["onnxslim"])
        rows["maskc"]["over_onnxslim"] = record.ratios(times["maskc"], times["onnxslim"])
        rows["maskc"]["default_over_onnxslim"] = record.ratios(times["default"], times["onnxslim"])
    return rows


def _in_turns(
    model: onnx.ModelProto, tools: list[str], directory: Path, repeats: int, rows: dict[str, Any]
) -> dict[str, list[float]]:
    """Seconds of maskc (the passes, and by default) and onnxslim; into `rows` what each tool leaves or how it fails."""
    times: dict[str, list[float]] = {"maskc": [], "default": []}

    def ours() -> None:
        for name, compiled in (("maskc", passes.shrink), ("default", partial(maskc.compile, verify=False))):
            start = time.perf_counter()
            compiled(model)
            times[name].append(time.perf_counter() - start)

    for tool in tools:
        with Worker([python_of("onnx"), "-P", HERE / "peer.py", tool, directory], SECONDS) as worker:
            told = worker.ask("transform")
            if tool not in ONCE and "failed" not in told:
                ours()
                times |= {"maskc": [], "default": [], tool: []}
                for _ in range(repeats):
                    ours()
                    times[tool].append(worker.ask("transform")["seconds"])
            rows[tool] = told if "failed" in told else told | worker.ask("result")
        if tool == "qonnx" and "failed" not in rows[tool]:
            rows[tool]["macs"] = passes.count(onnx.load(directory / "qonnx.onnx")).macs
    while len(times["maskc"]) < repeats:
        ours()
    return times


def error(found: list[Any], expected: list[Any]) -> float:
    """The largest error over the scale of its output."""
    pairs = zip(found, expected, strict=True)
    return max((float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs if np.any(b)), default=0.0)


def main() -> None:
    names = ("onnxslim", "openvino", "qonnx")
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--side", type=int, default=224, help="of images, in pixels")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", nargs="+", help="names of networks")
    parser.add_argument("--tools", nargs="+", choices=names, default=list(names))
    arguments = parser.parse_args()
    skipped = {tool: reason for tool in arguments.tools if (reason := installed("onnx", tool, "onnxruntime"))}
    results = {}
    for subject in subjects(arguments.side):
        if arguments.only is None or subject.name in arguments.only:
            tools = [tool for tool in subject.tools if tool in arguments.tools and tool not in skipped]
            results[subject.name] = measured(subject, tools, arguments.repeats)
            print(f"{subject.name} is done", flush=True)
    peers = {tool: version_of("onnx", tool) for tool in arguments.tools if tool not in skipped}
    more = {"side": arguments.side, "repeats": arguments.repeats, "peers": peers, "skipped": skipped}
    record.tell("peers", results, compiled_models.onnxslim, compiled_models.peers, dry=arguments.dry, **more)


if __name__ == "__main__":
    main()
