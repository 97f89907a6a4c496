"""Quality against FLOPs, by method of pruning: python -m benchmarks.quality mnist movielens

Runs the two examples (docs/examples) for several seeds and targets with each method, and records what is left of the
accuracy or AUC on data held out. Points that the record has already are not measured again, so that a run may be
interrupted, or go on with more seeds. It writes `results/quality-<example>.json`, and the picture and the tables of
pages/quality.md. `--again fisher` measures one method anew, beside what the record has of it, after a change of how
channels are chosen: into `results/quality-<example>-again.json`.
"""

from __future__ import annotations

import importlib.util
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import chart, marks, record
from benchmarks.marks import PAGES

DOCS = Path(__file__).parent.parent / "docs"
METHODS = ("fisher", "taylor", "magnitude", "random")
FACTORS = {"mnist": (10, 20, 40, 80), "movielens": (10, 20, 40, 60)}  # at 65 MaskNet has one channel in each mask
SEEDS = 5
EPOCHS = 15  # of training and of fine-tuning, as in the example itself


@dataclass(frozen=True)
class Point:
    """One network: how much of its quality was left when it was pruned to 1/factor of its FLOPs, and after tuning.

    `quality` is the accuracy or the AUC on data held out; of the unpruned network `method` is "none" and `factor` 1.
    `pruned` is that before fine-tuning, None where it was not measured. `flops` are those of the compiled network.
    """

    method: str
    factor: int
    seed: int
    flops: int
    quality: float
    pruned: float | None = None


def mnist(seed: int, methods: list[str]) -> Iterator[Point]:
    """The convolutional network: trained once, then pruned ever further by each method, and tuned at each factor."""
    import keras

    example = load_example("mnist")
    keras.utils.set_random_seed(seed)
    train_data, test_data = example.data(seed)
    model = example.network()
    example.train(model, train_data, EPOCHS)
    trained = model.get_weights()
    yield Point("none", 1, seed, _flops(model), example.accuracy(model, test_data))
    for method in methods:
        model.set_weights(trained)
        for factor in FACTORS["mnist"]:
            optimizer = example.prune(model, train_data, 1 / factor, method, seed)
            weights, pruned = model.get_weights(), example.accuracy(model, test_data)
            example.tune(model, train_data, EPOCHS, seed)
            yield Point(method, factor, seed, optimizer.flops, example.accuracy(model, test_data), pruned)
            model.set_weights(weights)


def movielens(seed: int, methods: list[str]) -> Iterator[Point]:
    """MaskNet: trained once, and by each method pruned to each factor and distilled."""
    example, epochs = load_example("movielens"), 2
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        batches = example.write(directory, 100_000)
        whole = example.figures(example.train(directory, seed, epochs), "before")
        yield Point("none", 1, seed, whole["FLOPs"], whole["AUC, held out"])
        for method in methods:
            for factor in FACTORS["movielens"]:
                pruned = example.prune(directory, 1 / factor, method, seed, epochs, batches)
                found = example.figures(pruned, "after")
                yield Point(method, factor, seed, found["FLOPs"], found["AUC, held out"])


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _flops(model: Any) -> int:
    from maskc.train import computational_cost

    return computational_cost(model).flops()


def measure(name: str, seeds: Sequence[int], methods: Sequence[str], into: str) -> None:
    """Measures what is missing of an example in a record, writing it after each network."""
    for seed in seeds:
        done = {(p.method, p.factor) for p in _points(into) if p.seed == seed}
        wanted = [m for m in methods if any((m, factor) not in done for factor in FACTORS[name])]
        for point in {"mnist": mnist, "movielens": movielens}[name](seed, wanted) if wanted else ():
            print(point, flush=True)
            # Read again: another process may measure other seeds.
            points = {_place(p): p for p in _points(into)} | {_place(point): point}
            written = {
                "example": name,
                "date": record.today(),
                "machine": platform.machine(),
                "versions": {package: version(package) for package in ("tensorflow", "keras", "numpy")},
                "points": [asdict(points[key]) for key in sorted(points)],
            }
            record.store(f"quality-{into}", written)


def _place(point: Point) -> tuple[int, int, int]:
    """Where a point stands in the record."""
    return point.seed, METHODS.index(point.method) if point.method in METHODS else -1, point.factor


def _points(name: str) -> list[Point]:
    return [Point(**point) for point in record.read(f"quality-{name}").get("points", ())]


def changes(points: list[Point], method: str, factor: int, tuned: bool = True) -> dict[int, float]:
    """By seed, how a network's quality differs from that of the unpruned one, in points of 100."""
    whole = {p.seed: p.quality for p in points if p.method == "none"}
    found = [(p.seed, p.quality if tuned else p.pruned) for p in points if (p.method, p.factor) == (method, factor)]
    return {seed: 100 * (quality - whole[seed]) for seed, quality in found if quality is not None}


def tables(name: str) -> str:
    """Mean and standard deviation over seeds of what is lost, in Markdown."""
    points = _points(name)
    whole = np.array([p.quality for p in points if p.method == "none"])
    measured = {"mnist": "Accuracy", "movielens": "AUC"}[name]
    text = (
        f"{measured} of the unpruned network: {whole.mean():.2%} ± {whole.std(ddof=1):.2%} ({len(whole)} seeds). "
        f"What pruning and fine-tuning changed, in points of 100:\n\n{_table(points, name, tuned=True)}"
    )
    if any(p.pruned is not None for p in points):
        text += f"\n\nThe same before fine-tuning:\n\n{_table(points, name, tuned=False)}"
    return text


def _table(points: list[Point], name: str, tuned: bool) -> str:
    lines = [
        "| FLOPs | " + " | ".join(METHODS) + " | fisher - random |",
        "|---|" + "---:|" * (len(METHODS) + 1),
    ]
    for factor in FACTORS[name]:
        found = {method: changes(points, method, factor, tuned) for method in METHODS}
        pairs = [value - found["random"][seed] for seed, value in found["fisher"].items() if seed in found["random"]]
        cells = [_spread(list(values.values())) for values in found.values()] + [_spread(pairs)]
        lines.append(f"| ÷ {factor} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def again(names: list[str]) -> str:
    """What was lost by the record and when it was measured anew, in Markdown."""
    lines = ["| network, FLOPs | method | before | again |", "|---|---|---:|---:|"]
    for name in names:
        before, after = _points(name), _points(f"{name}-again")
        for method in (method for method in METHODS if any(p.method == method for p in after)):
            for factor in FACTORS[name]:
                both = (list(changes(points, method, factor).values()) for points in (before, after))
                lines.append(f"| {name} ÷ {factor} | {method} | {' | '.join(map(_spread, both))} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):+.2f} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "-"


def draw(names: list[str]) -> None:
    """Draws the curves of all examples side by side into benchmarks/pages/quality.svg."""
    figure, axes = chart.subplots(1, len(names), (5.2 * len(names), 3.9))
    for axis, name in zip(axes[0], names, strict=True):
        points = _points(name)
        for method, colour in zip(METHODS, ("#0b7a5c", "#1f6fb2", "#b5651d", "#888888"), strict=True):
            lost = {factor: list(changes(points, method, factor).values()) for factor in FACTORS[name]}
            factors = [1, *(factor for factor, values in lost.items() if len(values) > 1)]
            mean = np.array([0.0, *(np.mean(lost[factor]) for factor in factors[1:])])
            spread = np.array([0.0, *(np.std(lost[factor], ddof=1) for factor in factors[1:])])
            axis.plot(factors, mean, marker="o", markersize=4, color=colour, label=method)
            axis.fill_between(factors, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axis.set_xscale("log")
        axis.set_xticks([1, *FACTORS[name]], [f"÷ {factor}" for factor in [1, *FACTORS[name]]])
        axis.minorticks_off()
        axis.set_xlabel("FLOPs of the compiled network")
        axis.set_ylabel({"mnist": "accuracy", "movielens": "AUC"}[name] + ", change in points of 100")
        axis.set_title({"mnist": "CNN on 5,000 digits of MNIST", "movielens": "MaskNet on MovieLens-100k"}[name])
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.tight_layout()
    (PAGES / "quality.svg").write_text(chart.saved(figure), encoding="utf-8")


def write_page(names: list[str]) -> None:
    """Puts the tables into benchmarks/pages/quality.md."""
    for name in names:
        ends = f"<!-- {name}: written by benchmarks/quality.py -->", f"<!-- end of {name} -->"
        marks.put(PAGES / "quality.md", ends, tables(name))
    repeated = [name for name in names if _points(f"{name}-again")]
    if repeated:
        ends = "<!-- again: written by benchmarks/quality.py -->", "<!-- end of again -->"
        marks.put(PAGES / "quality.md", ends, again(repeated))


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("examples", nargs="*", help=f"which to measure, of {', '.join(FACTORS)}; none: only draw")
    parser.add_argument("--seeds", type=int, nargs="*", default=range(SEEDS), help="by default 0 to 4")
    parser.add_argument("--again", choices=METHODS, help="measure this method anew, into a record of its own")
    options = parser.parse_args()
    for name in options.examples:
        if name not in FACTORS:
            parser.error(f"there is no example {name!r}")
        methods, into = ([options.again], f"{name}-again") if options.again else (METHODS, name)
        measure(name, options.seeds, methods, into)
    names = [name for name in FACTORS if _points(name)]
    if all(len({p.seed for p in _points(name)}) > 1 for name in names):
        draw(names)
        write_page(names)


if __name__ == "__main__":
    main()
