"""What pruning costs while training: python -m benchmarks.overhead

A training step under `PruningOptimizer(Adam)`, which gathers signals at every step and prunes every hundredth, against
the same step of the same model with masks under the bare Adam; and, beside it, the way of the original, where the mask
is repeated for each example and an ordinary backward pass gives the gradients of the copies. All in one process, step
by step in turns. Memory is the peak of a process of its own for each. Writes `results/overhead.json` and the table of
docs/training.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import marks

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "training.md"
MARKS = ("<!-- overhead: written by benchmarks/overhead.py -->", "<!-- end of overhead -->")
WAYS = ("bare", "pruning", "tiled")
PRUNE_EVERY = 100
Step = Callable[[], Any]


def networks() -> dict[str, Callable[[], tuple[Any, tuple[int, ...], int]]]:
    """Networks with masks by name, each with the shape of an example and the size of a batch."""
    import keras
    from keras import layers

    from maskc.train import prunable

    def cnn() -> tuple[Any, tuple[int, ...], int]:
        stack = [keras.Input((28, 28, 1))]
        for channels in (32, 64, 128):
            stack += [layers.Conv2D(channels, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
        stack += [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)]
        return prunable(keras.Sequential(stack)), (28, 28, 1), 128

    def application(name: str, side: int, batch: int) -> Callable[[], tuple[Any, tuple[int, ...], int]]:
        def build() -> tuple[Any, tuple[int, ...], int]:
            make = getattr(keras.applications, name)
            shape = (side, side, 3)
            return prunable(make(weights=None, input_shape=shape, classes=10, classifier_activation=None)), shape, batch

        return build

    def perceptron() -> tuple[Any, tuple[int, ...], int]:
        hidden = [layers.Dense(512, activation="relu") for _ in range(4)]
        return prunable(keras.Sequential([keras.Input((256,)), *hidden, layers.Dense(10)])), (256,), 256

    return {
        "MLP, 4 × 512": perceptron,
        "CNN, 28 × 28": cnn,
        "ResNet50, 96 × 96": application("ResNet50", 96, 16),
        "MobileNetV2, 96 × 96": application("MobileNetV2", 96, 16),
    }


def step(name: str, way: str) -> Step:
    """One training step of a network on a batch of noise."""
    import keras
    import tensorflow as tf

    from maskc.train import PruningOptimizer

    keras.utils.set_random_seed(0)
    model, shape, batch = networks()[name]()
    rng = np.random.default_rng(0)
    data = tf.constant(rng.normal(size=(batch, *shape)).astype(np.float32)), tf.constant(rng.integers(0, 10, batch))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    adam = keras.optimizers.Adam(1e-4)
    if way == "tiled":
        return _tiled(model, adam, loss, data)
    model.compile(PruningOptimizer(adam, prune_every=PRUNE_EVERY, flops_target=0) if way == "pruning" else adam, loss)
    dataset = tf.data.Dataset.from_tensors(data).repeat()
    iterator = iter(model.distribute_strategy.experimental_distribute_dataset(dataset))
    model.make_train_function()

    def run() -> None:
        float(model.train_function(iterator)["loss"])

    return run


def _tiled(model: Any, optimizer: Any, loss: Any, data: tuple[Any, Any]) -> Step:
    """The step with one copy of each mask for each example, and signals from the gradients of the copies."""
    import tensorflow as tf

    from maskc.train.mask_layer import mask_layers

    masks = mask_layers(model)
    copies: dict[int, Any] = {}
    images, labels = data
    for layer in masks:
        layer.call = lambda inputs, training=None, layer=layer: inputs * copies[id(layer)]
    trained = [v for v in model.trainable_variables if not any(v is layer.signal for layer in masks)]
    optimizer.build(trained)

    @tf.function
    def function() -> Any:
        for layer in masks:
            rank = len(layer.input.shape)
            one = tf.reshape(layer.mask, (1,) * (rank - 1) + (-1,))
            copies[id(layer)] = tf.tile(one, (tf.shape(images)[0], *[1] * (rank - 1)))
        with tf.GradientTape() as tape:
            tape.watch(list(copies.values()))
            value = loss(labels, model(images, training=True))
        gradients = tape.gradient(value, [trained, [copies[id(layer)] for layer in masks]])
        optimizer.apply(gradients[0], trained)
        for layer, gradient in zip(masks, gradients[1], strict=True):
            statistic = tf.reduce_sum(tf.reshape(gradient, (-1, layer.signal.shape[0])) ** 2, axis=0)
            layer.signal.assign(0.96 * layer.signal + 0.04 * statistic * tf.cast(tf.shape(images)[0], tf.float32))
        return value

    def run() -> None:
        function().numpy()

    return run


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Times of a network's steps in turns, and the peak memory of each way."""
    steps = {way: step(name, way) for way in WAYS}
    for run in steps.values():
        for _ in range(3):
            run()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds):
        for way in WAYS if turn % 2 else reversed(WAYS):
            begin = time.perf_counter()
            steps[way]()
            seconds[way].append(time.perf_counter() - begin)
    found: dict[str, Any] = {"network": name, "rounds": rounds}
    for way in WAYS:
        times, ratios = np.array(seconds[way]), np.array(seconds[way]) / np.array(seconds["bare"])
        found[way] = {
            "ms": [1e3 * float(np.percentile(times, q)) for q in (25, 50, 75)],
            "ratio": [float(np.percentile(ratios, q)) for q in (25, 50, 75)],
            # With the steps in which a decision is taken, of which there is one in PRUNE_EVERY.
            "mean ratio": float(times.mean() / np.mean(seconds["bare"])),
            "peak MB": _peak(name, way),
        }
    return found


def _peak(name: str, way: str) -> float:
    """Peak memory in MB of a process that takes five steps."""
    command = [sys.executable, "-m", "benchmarks.overhead", "--one", name, way]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout
    return float(output.split()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | bare step, ms | pruning | repeated masks | memory, bare | pruning | repeated masks |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, middle, high = row["bare"]["ms"]
        times = [
            f"{row[way]['ratio'][1]:.3f} ({row[way]['ratio'][0]:.2f}-{row[way]['ratio'][2]:.2f})"
            for way in ("pruning", "tiled")
        ]
        memory = [f"{row[way]['peak MB'] / row['bare']['peak MB']:.3f}" for way in ("pruning", "tiled")]
        cells = [f"{middle:.1f} ({low:.1f}-{high:.1f})", *times, f"{row['bare']['peak MB']:,.0f} MB", *memory]
        lines.append(f"| {row['network']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"), help="take five steps and print the peak memory")
    parser.add_argument("--networks", nargs="*", help="only these")
    options = parser.parse_args()
    if options.one:
        run = step(*options.one)
        for _ in range(5):
            run()
        # Not getrusage: what it says includes the process that this one was forked from.
        status = Path("/proc/self/status").read_text().splitlines()
        print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))
        return
    rows = []
    for name in options.networks or networks():
        rows.append(measure(name, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: version(package) for package in ("tensorflow", "keras", "numpy")},
        "prune_every": PRUNE_EVERY,
        "networks": rows,
    }
    (HERE / "results" / "overhead.json").write_text(json.dumps(record, indent=1) + "\n")
    marks.put(PAGE, MARKS, table(rows))


if __name__ == "__main__":
    main()
