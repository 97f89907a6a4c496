"""What pruning costs while training, against the network without masks: python -m benchmarks.overhead

Steps of four models on the same batch, in turns and in one process: the network as it is under Adam; `prunable` of it
under `PruningOptimizer(Adam)` with no decision due, and with a decision of one group of entries at each step; and, as
the paper has it, with the mask repeated for each example, where an ordinary backward pass gives the gradients of the
copies. The cost of a decision is what the second takes more than the first, over a step of the network as it is. The
first step, with all that comes before it, and the peak of memory are those of processes of their own. Writes
`results/overhead.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record

WAYS = ("unmasked", "masked", "deciding", "tiled")
Step = Callable[[], Any]


def networks() -> dict[str, Callable[[], tuple[Any, tuple[int, ...], int]]]:
    """Networks without masks by name, each with the shape of an example and the size of a batch."""
    import keras
    from keras import layers

    def cnn() -> tuple[Any, tuple[int, ...], int]:
        stack = [keras.Input((28, 28, 1))]
        for channels in (32, 64, 128):
            stack += [layers.Conv2D(channels, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
        stack += [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)]
        return keras.Sequential(stack), (28, 28, 1), 128

    def application(name: str, side: int, batch: int) -> Callable[[], tuple[Any, tuple[int, ...], int]]:
        def build() -> tuple[Any, tuple[int, ...], int]:
            make = getattr(keras.applications, name)
            shape = (side, side, 3)
            return make(weights=None, input_shape=shape, classes=10, classifier_activation=None), shape, batch

        return build

    def perceptron() -> tuple[Any, tuple[int, ...], int]:
        hidden = [layers.Dense(512, activation="relu") for _ in range(4)]
        return keras.Sequential([keras.Input((256,)), *hidden, layers.Dense(10)]), (256,), 256

    return {
        "MLP, 4 × 512": perceptron,
        "CNN, 28 × 28": cnn,
        "MobileNetV2, 64 × 64": application("MobileNetV2", 64, 32),
        "ResNet50, 64 × 64": application("ResNet50", 64, 32),
    }


def step(name: str, way: str) -> Step:
    """One training step of a network on a batch of noise."""
    import keras
    import tensorflow as tf

    from maskc.train import PruningOptimizer, prunable

    keras.utils.set_random_seed(0)
    model, shape, batch = networks()[name]()
    rng = np.random.default_rng(0)
    data = tf.constant(rng.normal(size=(batch, *shape)).astype(np.float32)), tf.constant(rng.integers(0, 10, batch))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer: Any = keras.optimizers.Adam(1e-4)
    if way != "unmasked":
        model = prunable(model)
    if way == "tiled":
        return _tiled(model, optimizer, loss, data)
    if way != "unmasked":
        every = 1 if way == "deciding" else 10**9
        optimizer = PruningOptimizer(optimizer, prune_every=every, flops_target=0)
    model.compile(optimizer, loss)
    iterator = iter(tf.data.Dataset.from_tensors(data).repeat())
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
        layer.call = lambda inputs, training=None, layer=layer: inputs * copies[id(layer)]  # type: ignore[method-assign, misc]
    trained = [v for v in model.trainable_variables if not any(v is layer.probe for layer in masks)]
    optimizer.build(trained)

    @tf.function  # type: ignore[untyped-decorator]
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
    """Ratios of a network's steps in turns, and the first step and the peak of memory of each way."""
    steps = {way: step(name, way) for way in WAYS}
    times = {way: np.array(seconds) for way, seconds in record.in_turns(steps, rounds).items()}
    milliseconds = record.quartiles(1e3 * times["unmasked"])
    found: dict[str, Any] = {"network": name, "rounds": rounds, "unmasked ms": milliseconds}
    for way in WAYS[1:]:
        found[way] = {"ratio": record.quartiles(times[way] / times["unmasked"])}
    decision = (times["deciding"] - times["masked"]) / times["unmasked"]
    found["decision"] = {"ratio": record.quartiles(decision), "mean": float(decision.mean())}
    for way in WAYS:
        found.setdefault(way, {}).update(_alone(name, way))
    return found


def _alone(name: str, way: str) -> dict[str, float]:
    """In a process of its own: seconds to the end of the first step, the model's making excluded, and peak memory."""
    command = [sys.executable, "-m", "benchmarks.overhead", "--one", name, way]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout
    seconds, peak = output.split()[-2:]
    return {"first step s": float(seconds), "peak MB": float(peak)}


def _one(name: str, way: str) -> None:
    """Print the seconds of the first step and the peak memory in MB after five."""
    made = networks()[name]()  # the libraries are imported, and initializers compiled
    del made
    begin = time.perf_counter()
    run = step(name, way)
    run()
    seconds = time.perf_counter() - begin
    for _ in range(4):
        run()
    # Not getrusage: what it says includes the process that this one was forked from.
    status = Path("/proc/self/status").read_text().splitlines()
    print(seconds, next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"), help="take five steps; print seconds and memory")
    parser.add_argument("--networks", nargs="*", help="only these")
    options = parser.parse_args()
    if options.one:
        _one(*options.one)
        return
    rows = []
    for name in options.networks or networks():
        rows.append(measure(name, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    record.write("overhead", rows)


if __name__ == "__main__":
    main()
