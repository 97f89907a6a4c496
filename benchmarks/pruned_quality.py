"""Quality over FLOPs of trained networks pruned by data alone: python -m benchmarks.pruned_quality

Each network of benchmarks/trained_networks.py is pruned to some shares of its FLOPs, given the file and unlabelled
inputs, and judged on others that nothing else saw:

* by masks of filters of least magnitude, as `maskc sweep` makes them without data;
* by the optimal brain surgeon alone: what `maskc prune` removes, each layer's weights changed once, without a refit;
* by `maskc prune`, and by it with training, for epochs that take some 20 seconds of one thread, or 120 of the published
  networks;
* by onnxsim (`onnxsim_peer.py`, in `.peers/onnxsim`): its structured pruning by weights or by activations, in two
  norms, layer by layer or globally, with heads of attention; the best on the test, as it is, after its ridge regression
  or after its block-wise fine-tuning, whichever is best there;
* by Torch-Pruning at once (`one_shot_peer.py`, in `.peers/torch`), by magnitude or Taylor, layer by layer or globally:
  the one of least loss on the data, then trained towards the source's outputs.

Peers train for as much processor time as maskc did, which does not depend on what else the machine does.
FLOPs are counted by maskc on each result. A peer that cannot reach a share is judged where it comes to. What is done is
not done again, so that a run may be interrupted; `--only` and `--seeds` say what is wanted, and no network with
`--draw`. It writes `results/pruned_quality.json`, and the picture and the table of pages/quality.md.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import maskc
import passes
from benchmarks import chart, record
from benchmarks.marks import PAGES, put
from benchmarks.peers import ENVIRONMENTS, HERE, installed, python_of, version_of
from benchmarks.sections.parts import where
from benchmarks.trained_networks import NETWORKS, Network
from benchmarks.worker import Worker
from maskc.errors import MaskcError
from maskc.pruning.choice.observation import Observed, observed
from maskc.pruning.choice.surgeon import Layer
from maskc.pruning.choice.targets import Search
from maskc.pruning.data import data
from maskc.pruning.layers.network import Mask
from maskc.pruning.options import PruneOptions
from passes.mask_savings.magnitude_masks import levels

SHARES = (0.7, 0.5, 0.35, 0.25)
SECONDS = 1800
HIGHEST, BISECTED = 0.95, 6  # sparsity of onnxsim, and steps in the search for one
TRAINING = 20.0  # seconds of the processor, for peers where maskc did not train
PACKAGES = {
    "onnxsim": ("onnxsim==0.8.1", "onnxruntime", "numpy"),
    "torch": ("torch", "torch-pruning", "onnx"),
}
MAGNITUDE, SURGEON, PRUNE, TRAINED, ONNXSIM, TORCH = (
    *("magnitude", "OBS", "maskc prune", "maskc prune, trained"),
    *("onnxsim", "Torch-Pruning"),
)
METHODS = (MAGNITUDE, SURGEON, PRUNE, TRAINED, ONNXSIM, TORCH)
FITS = 1.02  # times the share: a result of no more FLOPs is compared
LOOKS: dict[str, dict[str, Any]] = {
    MAGNITUDE: {"color": "#888888", "marker": "v"},
    ONNXSIM: {"color": "#b5651d", "marker": "s"},
    TORCH: {"color": "#8a4fbf", "marker": "D"},
    SURGEON: {"color": "#1f6fb2", "marker": "^"},
    PRUNE: {"color": "#0b7a5c", "marker": "o", "linewidth": 2.2},
    TRAINED: {"color": "#0b7a5c", "marker": "o", "linestyle": "--", "markerfacecolor": "white"},
}

Row = dict[str, Any]
Done = Callable[[str, Row], None]


class Bench:
    """A network of a seed, its data, and the ways to prune it. Each gives a row: FLOPs left, quality, seconds."""

    def __init__(self, network: Network, directory: Path, seed: int) -> None:
        self.network, self.directory, self.seed = network, directory, seed
        if not (directory / "test.npz").exists():
            directory.mkdir(parents=True, exist_ok=True)
            network.make(directory, seed)
        self.source = onnx.load(directory / "source.onnx")
        with np.load(directory / "data.npz") as stored:
            self.data = dict(stored)
        self.flops = self.count(self.source)
        self._chosen: dict[float, Mask] = {}
        self._seconds = 0.0  # of the processor, that observing and choosing took so far

    def count(self, model: onnx.ModelProto) -> int:
        (name,) = (port.name for port in model.graph.input)
        (array,) = self.data.values()
        return passes.count(model, at={name: [1, *array.shape[1:]]}).flops

    def row(self, model: onnx.ModelProto, seconds: float, **more: Any) -> Row:
        left = self.count(model) / self.flops
        return {"left": left, "quality": self.network.quality(model, self.directory), "seconds": seconds, **more}

    def magnitude(self, share: float) -> Row:
        start = time.process_time()
        (level,) = levels(self.source, [share * self.flops], self.at)
        if level is None:
            return {"failed": "not so few are left without all filters that can go"}
        compiled = maskc.compile(self.source, masks=level.masks, at=self.at, align="none", verify=False)
        return self.row(compiled.model, time.process_time() - start)

    def surgeon(self, share: float) -> Row:
        seen, whole = self._observed
        gone, start = self._gone(share), time.process_time()
        weights = {}
        for layer in (layer.copy() for layer in whole):
            layer.without(np.flatnonzero(gone).tolist())
            weights[layer.reader.contraction.weights] = layer.stored()
        return self._compiled(seen.network.layers.constants.put(seen.network.masked(gone), weights), start)

    def refitted(self, share: float) -> Row:
        """As by `maskc prune --align none`, but for one observation for all shares."""
        gone, start = self._gone(share), time.process_time()
        return self._compiled(self._observed[0].without(gone), start)

    def _compiled(self, masked: onnx.ModelProto, start: float) -> Row:
        """What is compiled of a masked model; the seconds are without those of observing and choosing."""
        compiled = maskc.compile(masked, at=self.at, align="none", verify=False)
        return self.row(compiled.model, time.process_time() - start, observing=self._seconds)

    def _gone(self, share: float) -> Mask:
        """The groups that go; of shares in falling order, as groups that went do not come back."""
        if share not in self._chosen:
            (seen, _), start = self._observed, time.process_time()
            before = {"flops": seen.cost.flops}
            options = PruneOptions(flops=share, align="none", verify=None, at=seen.network.at)
            self._chosen[share], _ = Search(seen, options, before).found()
            self._seconds += time.process_time() - start
        return self._chosen[share]

    @cached_property
    def _observed(self) -> tuple[Observed, list[Layer]]:
        """The network as it was observed, and its layers before anything goes."""
        start = time.process_time()
        options = PruneOptions(align="none", verify=None, seed=self.seed)
        seen = observed(self.source, data(self.data, self.source), options)
        layers = [layer.copy() for layer in seen.removal._layers]
        self._seconds += time.process_time() - start
        return seen, layers

    def trained(self, share: float) -> Row:
        start, begun = time.perf_counter(), time.process_time()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            pruned = maskc.prune(
                self.directory / "source.onnx",
                self.data,
                flops=share,
                epochs=self.network.epochs,
                align="none",
                seed=self.seed,
            )
        said = sorted({str(warning.message) for warning in told} | set(pruned.report.warnings))
        seconds = time.process_time() - begun
        elapsed = time.perf_counter() - start
        return self.row(pruned.model, seconds, elapsed=elapsed, epochs=self.network.epochs, warnings=said)

    def onnxsim(self, share: float, worker: Worker, training: float) -> Row:
        """The best on the test of all that it can do, at the least sparsity that leaves no more than the share.

        The twin is tried where the file is not pruned so far. Where each layer loses a share of its own channels, it
        is the same for all rankings, and looked for once. The best is tuned.
        """
        start = time.perf_counter()
        rows: list[Row] = []
        failed: set[str] = set()
        for form in ["source", "twin"][: 1 + self.network.twin]:
            local = None
            for ways in itertools.product(("local", "global"), ("weights", "activations"), ("l2", "l1")):
                try:
                    model, sparsity = self._sparse(worker, [form, *ways], share, local)
                    rows.append(self.row(model, 0.0, way=", ".join([form, *ways]), sparsity=sparsity))
                    local = sparsity if ways[0] == "local" else None
                except (MaskcError, RuntimeError) as error:
                    failed.add(str(error)[:200])
            if any(row["left"] <= FITS * share for row in rows):
                break
        if not rows:
            return {"failed": "; ".join(sorted(failed))}
        fits = [row for row in rows if row["left"] <= FITS * share]
        best = max(fits, key=_quality) if fits else min(rows, key=lambda row: row["left"])
        if best["left"] < 1:
            worker.ask(f"prune {best['way'].replace(',', '')} {best['sparsity']}")
            told = worker.ask(f"tune {training}")
            failed |= {told["failed"]} if "failed" in told else set(told["blocks"])
            files = [(tuning, self.directory / f"{tuning}.onnx") for tuning in ("ridge", "blocks")]
            tuned = [
                self.row(onnx.load(file), 0.0, way=f"{best['way']}, {name}") for name, file in files if file.exists()
            ]
            best = max([best, *tuned], key=_quality)
            for _, file in files:
                file.unlink(missing_ok=True)
        seconds = time.perf_counter() - start
        return best | {"seconds": seconds, "reached": bool(fits), "said": sorted(failed)}

    def _sparse(
        self, worker: Worker, ways: Sequence[str], share: float, known: float | None
    ) -> tuple[onnx.ModelProto, float]:
        """The model of the least sparsity that leaves no more than the share, or of the highest; and the sparsity."""

        def at(sparsity: float) -> tuple[onnx.ModelProto, float]:
            told = worker.ask(f"prune {' '.join(ways)} {sparsity:.4f}")
            if "failed" in told:
                raise RuntimeError(told["failed"])
            model = onnx.load(self.directory / "candidate.onnx")
            return model, self.count(model) / self.flops

        high = known or HIGHEST
        model, left = at(high)
        if known or left > share:
            return model, high
        low = 0.0
        for _ in range(BISECTED):
            middle = (low + high) / 2
            low, high = (low, middle) if at(middle)[1] <= share else (middle, high)
        return at(high)[0], high

    def torch_pruning(self, share: float, worker: Worker, training: float) -> Row:
        start = time.perf_counter()
        found = {}
        for ways in itertools.product(("magnitude", "taylor"), ("local", "global")):
            told = worker.ask(f"prune {' '.join(ways)} {share}")
            if "failed" not in told:
                found[ways] = told["loss"]
        if not found:
            return {"failed": told["failed"]}
        best = min(found, key=found.__getitem__)
        worker.ask(f"prune {' '.join(best)} {share}")
        untuned = self.row(onnx.load(self.directory / "candidate.onnx"), 0.0)
        told = worker.ask(f"tune {training}")
        if "failed" in told:
            return told
        tuned = self.row(onnx.load(self.directory / "candidate.onnx"), time.perf_counter() - start, way=", ".join(best))
        return tuned | {"untuned": untuned["quality"], "steps": told["steps"]}

    @property
    def at(self) -> dict[str, list[int]]:
        return {name: [1, *array.shape[1:]] for name, array in self.data.items()}


def _quality(row: Row) -> float:
    return float(row["quality"])


def measured(
    bench: Bench, methods: Sequence[str], shares: Sequence[float], known: Mapping[str, Row], done: Done
) -> None:
    """Every method at every share that is not known, each row told as soon as it is there."""
    if "source" not in known:
        done("source", bench.row(bench.source, 0.0) | {"flops": bench.flops})

    def training(share: float) -> float:
        """What maskc took longer with training than without it."""
        without, trained = (known.get(f"{name}, {share:g}", {}) for name in (PRUNE, TRAINED))
        if "seconds" not in without or "seconds" not in trained:
            return TRAINING
        return max(1.0, float(trained["seconds"] - without["seconds"] - without["observing"]))

    with ExitStack() as stack:
        folder = bench.directory

        @cache
        def peer(environment: str, *command: str | Path) -> Worker:
            return stack.enter_context(Worker([python_of(environment), "-P", *command, folder], SECONDS))

        def torch() -> Worker:
            return peer("torch", HERE / "one_shot_peer.py", bench.network.name)

        def onnxsim() -> Worker:
            if bench.network.twin and not (folder / "twin.onnx").exists():
                torch().ask("whole_network")
            return peer("onnxsim", HERE / "onnxsim_peer.py")

        ways: dict[str, Callable[[float], Row]] = {
            MAGNITUDE: bench.magnitude,
            PRUNE: bench.refitted,
            SURGEON: bench.surgeon,
            TRAINED: bench.trained,
            TORCH: lambda share: bench.torch_pruning(share, torch(), training(share)),
            ONNXSIM: lambda share: bench.onnxsim(share, onnxsim(), training(share)),
        }
        for name in (name for name in ways if name in methods and (name != TORCH or bench.network.twin)):
            for share in (share for share in shares if f"{name}, {share:g}" not in known):
                try:
                    row = ways[name](share)
                except MaskcError as error:
                    row = {"failed": str(error)}
                done(f"{name}, {share:g}", row)
                if row.get("reached") is False:  # nor does it reach the others, and its least is the same
                    for further in SHARES[SHARES.index(share) + 1 :]:
                        done(f"{name}, {further:g}", row)


def table(results: Mapping[str, Any]) -> str:
    """Quality by network, share and method, in Markdown: the mean of the seeds."""
    lines = [f"| network, FLOPs left | {' | '.join(METHODS)} |", "|---|" + "---:|" * len(METHODS)]
    for name, seeds in results.items():
        whole = np.mean([rows["source"]["quality"] for rows in seeds.values()])
        lines.append(f"| **{NETWORKS[name].title}**, {NETWORKS[name].measure}: {whole:.3f} |{' |' * len(METHODS)}")
        for share in SHARES:
            cells = (_cell(_rows(seeds, method, share), share) for method in METHODS)
            lines.append(f"| {share:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(seeds: Mapping[str, Any], method: str, share: float) -> list[Row]:
    """Those of all seeds that did not fail."""
    found = [rows[key] for rows in seeds.values() if (key := f"{method}, {share:g}") in rows]
    return [row for row in found if "failed" not in row]


def _cell(rows: Sequence[Row], share: float) -> str:
    if not rows:
        return "–"
    left, quality = (float(np.mean([row[figure] for row in rows])) for figure in ("left", "quality"))
    return f"{quality:.3f}" + (f" at {left:.2f}" if left > FITS * share else "")


def draw(results: Mapping[str, Any]) -> str:
    """A panel for each network, a line for each method, as SVG."""
    figure, axes = chart.subplots(2, 3, (11, 6.6))
    for axis, name in zip(axes.flat, results, strict=False):
        seeds = results[name]
        whole = np.mean([rows["source"]["quality"] for rows in seeds.values()])
        for method, look in LOOKS.items():
            found = [[(row["left"], row["quality"]) for row in _rows(seeds, method, share)] for share in SHARES]
            if any(found):  # a line is broken where nothing was measured
                points = [(1.0, whole), *(np.mean(rows or [(np.nan, np.nan)], axis=0) for rows in found)]
                axis.plot(*zip(*points, strict=True), label=method, markersize=4, **look)
        axis.set_xlim(1.03, 0.2)
        axis.set_xlabel("FLOPs left")
        axis.set_ylabel(NETWORKS[name].measure)
        axis.set_title(NETWORKS[name].title)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(results) :]:
        axis.set_axis_off()
    lines = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    named = [method for method in LOOKS if method in lines]
    figure.legend([lines[m] for m in named], named, loc="lower center", ncols=len(named), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return chart.saved(figure)


def write_page(measured: dict[str, Any]) -> None:
    """The picture, and the table of a record in pages/quality.md, with where it was measured."""
    (PAGES / "pruned-quality.svg").write_text(draw(measured["results"]), encoding="utf-8")
    ends = "<!-- pruned: written by benchmarks/pruned_quality.py -->", "<!-- end of pruned -->"
    put(PAGES / "quality.md", ends, f"{table(measured['results'])}\n\n{where(measured)}")


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="networks")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shares", type=float, nargs="+", choices=SHARES, default=list(SHARES), help="of the FLOPs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    home = ENVIRONMENTS / "pruned_quality"
    if not arguments.draw:
        asked = {ONNXSIM: ("onnxsim", "torch"), TORCH: ("torch",)}  # onnxsim is given the twins, too
        for environment in {name for method in arguments.methods for name in asked.get(method, ())}:
            packages = PACKAGES[environment]
            if reason := installed(environment, *packages):
                raise SystemExit(f"{packages[0]} cannot be installed: {reason}")
        for seed, name in itertools.product(arguments.seeds, arguments.only):
            directory = home / f"seed-{seed}" / name
            file = directory / "figures.json"
            bench = Bench(NETWORKS[name], directory, seed)
            found: dict[str, Row] = json.loads(file.read_text()) if file.exists() else {}

            def done(key: str, row: Row, name: str = name, file: Path = file, found: dict[str, Row] = found) -> None:
                print(f"{name}, {key}: {row}", flush=True)
                found[key] = row
                file.write_text(json.dumps(found, indent=1))

            measured(bench, arguments.methods, sorted(arguments.shares, reverse=True), found, done)
            write(home)
    write_page(record.read("pruned_quality"))


def write(home: Path) -> None:
    """The record of all that was measured in this folder."""
    results: dict[str, dict[str, Any]] = {}
    for name in NETWORKS:
        for file in sorted(home.glob(f"seed-*/{name}/figures.json")):
            seed = file.parent.parent.name.removeprefix("seed-")
            results.setdefault(name, {})[seed] = json.loads(file.read_text())
    peers = {"onnxsim": version_of("onnxsim", "onnxsim"), "torch-pruning": version_of("torch", "torch-pruning")}
    record.write("pruned_quality", results, peers=peers)


if __name__ == "__main__":
    main()
