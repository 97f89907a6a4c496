"""Training in smaller Keras models against training with masks: python -m benchmarks.shrinking_training --seeds 0 1 2

On scikit-learn's digits and on 5,000 digits of MNIST a convolutional network is trained, pruned to a quarter of its
FLOPs, and fine-tuned for five epochs twice from the same weights: with its masks, and shrunk. The shrunk one is then
quantised to int8. And on MNIST a larger one is pruned to a tenth, with and without `pruning_shrink_every`. Accuracy is
that on a held-out fifth. Writes results/shrinking-training.json.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import record

BATCH, EPOCHS = 64, 5
SHARE, LEAST = 0.25, 0.1
TRAINED = {"digits": 25, "mnist": 8}  # epochs before pruning


def data(name: str, seed: int) -> tuple[Any, Any]:
    """Images and labels to train with, and the held-out fifth."""
    from maskc import datasets

    images, labels = datasets.digits() if name == "digits" else datasets.mnist()
    if name == "digits":
        images = np.kron(images[..., 0], np.ones((2, 2), np.float32))[..., None]
    order = np.random.default_rng(seed).permutation(len(labels))
    first, last = np.split(order, [len(labels) * 4 // 5])
    return (images[first], labels[first]), (images[last], labels[last])


def network(side: int, widths: tuple[int, ...], seed: int) -> Any:
    """Convolutions, each normalised and every other one followed by a pooling."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((side, side, 1))
    for index, channels in enumerate(widths):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D()(x) if index % 2 == 0 else x
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def loss() -> Any:
    """From logits."""
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def adam(rate: float, examples: int, epochs: int) -> Any:
    """With a learning rate that falls to zero."""
    import keras

    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * -(-examples // BATCH)))


def accuracy(predict: Any, held_out: Any) -> float:
    """The share of digits that are told right; predict: logits for images."""
    images, labels = held_out
    return float(np.mean(predict(images).argmax(-1) == labels))


def fine_tuning(name: str, seed: int) -> dict[str, Any]:
    """Accuracy and seconds of five epochs in both models, which start from the same weights."""
    from maskc.train import PruningOptimizer, fine_tune, prunable, shrink
    from maskc.train.cost import compiled_flops

    train, held_out = data(name, seed)
    examples = len(train[1])
    model = network(train[0].shape[1], (32, 64, 128), seed)
    model.compile(adam(2e-3, examples, TRAINED[name]), loss())
    model.fit(*train, batch_size=BATCH, epochs=TRAINED[name], verbose=0)
    masked = prunable(model)
    found: dict[str, Any] = {"trained": accuracy(lambda x: model.predict(x, verbose=0), held_out)}
    optimizer = PruningOptimizer(
        adam(1e-3, examples, 20), prune_every=2, burn_in=20, decay=0.95, flops_target=SHARE, seed=seed
    )
    masked.compile(optimizer, loss())
    while not optimizer.reached:
        masked.fit(*train, batch_size=BATCH, epochs=1, verbose=0)
    found["pruned"] = accuracy(lambda x: masked.predict(x, verbose=0), held_out)
    found["share of FLOPs"] = compiled_flops(masked) / compiled_flops(model)
    small = shrink(masked)
    for key, tuned in {"small": small, "masked": masked}.items():
        begin = time.perf_counter()
        fine_tune(tuned, train, epochs=EPOCHS, optimizer=adam(1e-3, examples, EPOCHS), loss=loss(), batch_size=BATCH)
        seconds = time.perf_counter() - begin
        right = accuracy(lambda x, tuned=tuned: tuned.predict(x, verbose=0), held_out)
        found[key] = {"accuracy": right, "seconds": seconds}
    for key, tuned in {"small": small, "masked": masked}.items():  # a step, without what the first one costs
        begin = time.perf_counter()
        tuned.fit(*train, batch_size=BATCH, epochs=1, verbose=0)
        found[key]["epoch after"] = time.perf_counter() - begin
    return found | {"int8": quantised(small, train, held_out)}


def quantised(small: Any, train: Any, held_out: Any) -> dict[str, float]:
    """Accuracy of a model as .tflite files, in float32 and in int8 with ranges from the first training images."""
    from maskc.train.shrinking.tflite import converted, runner

    files = {"float32": converted(small), "int8": converted(small, "int8", [train[0][:200]])}
    input_name, found = small.inputs[0].name, {}
    for key, file in files.items():
        run = runner(file)
        found[key] = accuracy(
            lambda images, run=run: np.concatenate([y for x in images for y in run(**{input_name: x[None]}).values()]),
            held_out,
        )
    return found


def shrinking_at_intervals(seed: int, epochs: int = 24, every: int = 250) -> dict[str, Any]:
    """Seconds and accuracy of pruning to a tenth of the FLOPs, with and without smaller models on the way."""
    from maskc.train import PruningTrainer, prunable
    from maskc.train.cost import compiled_flops

    train, held_out = data("mnist", seed)
    examples = len(train[1])
    steps = epochs * -(-examples // BATCH)
    found: dict[str, Any] = {"steps": steps, "shrink_every": every}
    for key, interval in {"with": every, "without": 0}.items():
        model = prunable(network(28, (64, 128, 256), seed))
        with tempfile.TemporaryDirectory() as directory:
            trainer = PruningTrainer(
                model,
                loss(),
                directory,
                adam(2e-3, examples, epochs),
                pruning_iter=10,
                pruning_burn_in=steps // 10,
                pruning_flops_target=LEAST,
                pruning_decay=0.95,
                pruning_shrink_every=interval,
                pruning={"schedule": "cubic", "ramp": steps // 2},
                batch_size=BATCH,
                seed=seed,
                checkpoint_every=10**9,
            )
            begin = time.perf_counter()
            trainer.train(train, epochs=epochs)
            seconds = time.perf_counter() - begin
        right = accuracy(lambda x, trainer=trainer: trainer.model.predict(x, verbose=0), held_out)
        found[key] = {"seconds": seconds, "accuracy": right, "FLOPs": compiled_flops(trainer.model)}
    return found


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "digits": lambda seed: fine_tuning("digits", seed),
    "mnist": lambda seed: fine_tuning("mnist", seed),
    "intervals": shrinking_at_intervals,
}


def main() -> None:
    """Measure, and write the record after each seed."""
    parser = record.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="others stay as recorded")
    given = parser.parse_args()
    results = record.read("shrinking-training").get("results", {}) | {part: [] for part in given.parts}
    for seed, part in itertools.product(given.seeds, given.parts):
        results[part].append(PARTS[part](seed))
        print(seed, part, results[part][-1], flush=True)
        record.write("shrinking-training", results)


if __name__ == "__main__":
    main()
