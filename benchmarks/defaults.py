"""The default schedule of `PruningOptimizer` beside others: python -m benchmarks.defaults --seeds 0 1 2 3 4 5 6 7 8 9

Three small networks are trained once for each seed, and then go through one call of `fit` under each setting, which
prunes them to a tenth of their FLOPs and trains what is left, all in the same number of updates by Adam. Quality is on
data held out, after that call. Settings are compared on seeds 0 to 4 and judged on the others, so that what is best by
chance does not count. Runs that `results/defaults.json` has already are not made again, so that it may be interrupted.
It writes the table of pages/quality.md.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import marks, record
from benchmarks.quality import load_example
from maskc import datasets
from maskc.train.selection.settings import SCHEDULES

TARGET = 0.1
CHOSEN = 5  # seeds that settings are compared on, from 0
Data = tuple[tuple[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Setting:
    """A schedule by shares of the updates of `fit`: when it begins and ends, and its shape.

    Attributes:
        shape: the share of the way to the target by the share of the ramp that is over; None for the cubic curve.
        more: further arguments of `PruningOptimizer`.
        then: the rate of a new Adam that fine-tunes in as many updates again; None for no fine-tuning.
    """

    end: float
    start: float = 0.0
    shape: Callable[[float], float] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    then: Callable[[int], Any] | None = None

    def arguments(self, updates: int) -> dict[str, Any]:
        """The arguments of `PruningOptimizer`, for a `fit` of so many updates."""
        ramp = max(1, int((self.end - self.start) * updates))
        schedule = {"schedule": "cubic", "ramp": ramp, "prune_every": max(1, ramp // 50)}
        return schedule | {"burn_in": int(self.start * updates)} | self.more


#: None is what users get who say nothing.
SETTINGS: dict[str, Setting | None] = {
    "default": None,
    "ends at 0.3": Setting(0.3),
    "ends at 0.7": Setting(0.7),
    "0.1 to 0.5": Setting(0.5, start=0.1),
    "geometric": Setting(0.5, shape=lambda over: (1 - TARGET**over) / (1 - TARGET)),
    "decay 0.99": Setting(0.5, more={"decay": 0.99}),
}


def falling(updates: int) -> Any:
    """A rate that falls to 0 along a cosine."""
    import keras

    return keras.optimizers.schedules.CosineDecay(3e-3, updates)


#: the default schedule, and twice the updates, so that these are no rivals of the others
TUNED = {
    "fine-tuned, rate 0.001": Setting(0.5, then=lambda updates: 1e-3),
    "fine-tuned, falling rate": Setting(0.5, then=falling),
}


@dataclass(frozen=True)
class Task:
    """A network and its data: how it is trained before, and the call of `fit` that prunes it."""

    network: Callable[[], Any]
    data: Callable[[int], Data]
    batch: int
    before: tuple[int, float]  # epochs, and the rate that falls to 0 along a cosine
    epochs: int
    binary: bool = False

    @property
    def loss(self) -> Any:
        """The loss."""
        import keras

        kind = keras.losses.BinaryCrossentropy if self.binary else keras.losses.SparseCategoricalCrossentropy
        return kind(from_logits=True)

    def quality(self, model: Any, held_out: tuple[Any, Any]) -> float:
        """The accuracy, or the AUC."""
        outputs = model.predict(held_out[0], batch_size=1000, verbose=0)
        if not self.binary:
            return float(np.mean(outputs.argmax(-1) == held_out[1]))
        from scipy.stats import rankdata

        right, ranks = held_out[1].reshape(-1) > 0.5, rankdata(outputs.reshape(-1))
        pairs = right.sum() * (~right).sum()
        return float((ranks[right].sum() - right.sum() * (right.sum() + 1) / 2) / pairs)


def digits() -> Any:
    """The network of the tutorial."""
    import keras
    from keras import layers

    from maskc.train import prunable

    inputs = keras.Input((8, 8, 1))
    x = layers.MaxPooling2D()(layers.Conv2D(32, 3, padding="same", activation="relu")(inputs))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    return prunable(keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x))))


def masknet() -> Any:
    """The network of the example."""
    from maskc.train import FeatureSpec
    from maskc.train.models.recommender import RankerConfig, ranker

    movielens = load_example("movielens")
    return ranker(RankerConfig(**movielens.MASKNET), FeatureSpec(**movielens.SPEC))


@functools.cache
def ratings() -> Data:
    """All ratings, parsed: features by name, and whether the movie is liked."""
    from maskc.train import FeatureSpec, Records

    movielens, parts = load_example("movielens"), []
    spec = FeatureSpec(**movielens.SPEC)
    with tempfile.TemporaryDirectory() as name:
        movielens.write(Path(name), 100_000)
        for part in ("train", "held-out"):
            batches = list(Records(Path(name) / f"{part}.tfrecord", spec, 256, shuffle=0)(0))
            features = {key: np.concatenate([x[key] for x, _ in batches]) for key in batches[0][0]}
            parts.append((features, np.concatenate([y for _, y in batches])))
    return parts[0], parts[1]


def _split(read: Callable[[], tuple[Any, Any]], share: float) -> Callable[[int], Data]:
    """Takes data apart by a seed: the share to train with, and the rest."""
    read = functools.cache(read)

    def data(seed: int) -> Data:
        x, y = read()
        order = np.random.default_rng(seed).permutation(len(y))
        known, other = np.split(order, [int(len(y) * share)])
        return (x[known], y[known]), (x[other], y[other])

    return data


# Much is held out, so that accuracies are told apart.
TASKS = {
    "digits": Task(digits, _split(datasets.digits, 0.5), 32, (12, 5e-3), 10),
    "mnist": Task(lambda: load_example("mnist").network(), _split(datasets.mnist, 0.25), 32, (10, 2e-3), 10),
    "movielens": Task(masknet, lambda seed: ratings(), 256, (2, 1e-3), 1, binary=True),
}


def trained(name: str, seed: int) -> tuple[list[Any], float]:
    """The weights of a network that was trained without pruning, and its quality."""
    import keras

    task = TASKS[name]
    known, held_out = task.data(seed)
    epochs, rate = task.before
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = task.network()
    steps = epochs * -(-len(known[1]) // task.batch)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), task.loss)
    model.fit(*known, batch_size=task.batch, epochs=epochs, verbose=0)
    return model.get_weights(), task.quality(model, held_out)


def pruned(name: str, seed: int, weights: list[Any], setting: Setting | None) -> float:
    """The quality of a trained network after the call of `fit` that prunes it."""
    import keras

    from maskc.train import PruningOptimizer

    task = TASKS[name]
    known, held_out = task.data(seed)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = task.network()
    model.set_weights(weights)
    keras.utils.set_random_seed(seed + 1000)  # the same batches for all settings
    updates = task.epochs * -(-len(known[1]) // task.batch)
    arguments = {} if setting is None else setting.arguments(updates)
    shape = None if setting is None else setting.shape
    optimizer = PruningOptimizer(keras.optimizers.Adam(1e-3), flops_target=TARGET, **arguments)
    model.compile(optimizer, task.loss)
    with nullcontext() if shape is None else mock.patch.dict(SCHEDULES, cubic=shape):
        model.fit(*known, batch_size=task.batch, epochs=task.epochs, verbose=0)
    if not optimizer.reached:
        raise RuntimeError(f"{name}, seed {seed}: {setting} did not come to the target.")
    if setting is not None and setting.then is not None:
        model.compile(keras.optimizers.Adam(setting.then(updates)), task.loss)
        keras.utils.set_random_seed(seed + 2000)
        model.fit(*known, batch_size=task.batch, epochs=task.epochs, verbose=0)
    return task.quality(model, held_out)


def measure(tasks: Sequence[str], seeds: Sequence[int], settings: Sequence[str]) -> None:
    """Makes the runs that are missing in the record, which is written after each."""
    for seed in seeds:
        for name in tasks:
            wanted = [setting for setting in settings if setting not in runs().get(name, {}).get(str(seed), {})]
            if not wanted:
                continue
            weights, whole = trained(name, seed)
            note(name, seed, "unpruned", whole)
            for setting in wanted:
                note(name, seed, setting, pruned(name, seed, weights, (SETTINGS | TUNED)[setting]))


def runs() -> dict[str, dict[str, dict[str, float]]]:
    """The record: quality by network, seed and setting."""
    found: dict[str, dict[str, dict[str, float]]] = record.read("defaults").get("results", {})
    return found


def note(name: str, seed: int, setting: str, quality: float) -> None:
    """Adds a run to the record."""
    found = runs()
    found.setdefault(name, {}).setdefault(str(seed), {})[setting] = quality
    record.write("defaults", found, target=TARGET)
    print(f"{name}, seed {seed}, {setting}: {quality:.4f}", flush=True)


def differences(name: str, setting: str, judged: bool) -> list[float]:
    """By how many points of 100 a setting is better than the default, by seed: those to judge by, or to choose by.

    Empty where it was not measured on all of them.
    """
    by_seed = runs()[name]
    seeds = [str(seed + CHOSEN * judged) for seed in range(CHOSEN)]
    if not all({setting, "default"} <= set(by_seed.get(seed, ())) for seed in seeds):
        return []
    return [100 * (by_seed[seed][setting] - by_seed[seed]["default"]) for seed in seeds]


def table() -> str:
    """What each setting is better than the default, and the best of the first seeds on the others, in Markdown."""
    found = runs()
    lines = [f"| setting | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    for title in ("unpruned", "default"):
        means = [
            100 * np.mean([seed[title] for seed in by_seed.values() if title in seed]) for by_seed in found.values()
        ]
        lines.append(f"| {title}: accuracy or AUC | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    others = [setting for setting in SETTINGS if setting != "default"]

    def row(title: str, settings: Sequence[str], judged: bool) -> str:
        values = (differences(name, setting, judged) for name, setting in zip(found, settings, strict=True))
        return f"| {title} | {' | '.join(map(_spread, values))} |"

    lines += [row(setting, [setting] * len(found), judged=False) for setting in others]
    measured = {name: {s: values for s in others if (values := differences(name, s, judged=False))} for name in found}
    best = [max(values, key=lambda setting: np.mean(values[setting])) for values in measured.values()]
    lines += [f"| *best of these* | {' | '.join(best)} |", row("*the same on seeds 5 to 9*", best, judged=True)]
    lines += [row(setting, [setting] * len(found), judged=False) for setting in TUNED]
    judged = [differences(name, setting, judged=True) for name, setting in zip(found, best, strict=True)]
    if all(judged):
        lines += ["", f"On seeds 5 to 9, in the mean of all: {_spread(list(np.mean(judged, axis=0)))} points."]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    """Mean and standard error."""
    return f"{np.mean(values):+.2f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}" if values else "–"


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}; by default all")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=range(CHOSEN), help="by default 0 to 4; none: only the table"
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS | TUNED, default=list(SETTINGS | TUNED))
    options = parser.parse_args()
    measure(options.tasks, options.seeds, options.settings)
    ends = "<!-- defaults: written by benchmarks/defaults.py -->", "<!-- end of defaults -->"
    marks.put(marks.PAGES / "quality.md", ends, table())


if __name__ == "__main__":
    main()
