"""Small residual network with channel masks for the handwritten digits of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from maskc import datasets, progress
from maskc.train import MaskLayer, PruningOptimizer

BATCH = 32
TRAINING_EPOCHS = 20
PRUNING_EPOCHS = 30
TUNING_EPOCHS = 12
FLOPS_TARGET = 0.15

Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images of shape `(count, 8, 8, 1)` with values from 0 to 1, and labels from 0 to 9."""

    train: Labelled
    held_out: Labelled


def load_digits(seed: int) -> Digits:
    """Returns scikit-learn's 1,797 digits, a third of each class held out.

    Raises:
        UnavailableError: if scikit-learn is not installed.
    """
    images, labels = datasets.digits()
    from sklearn import model_selection

    x, held_x, y, held_y = model_selection.train_test_split(
        images, labels, test_size=1 / 3, random_state=seed, stratify=labels
    )
    return Digits((x, y), (held_x, held_y))


def build() -> Any:
    """A residual network for images of shape `(8, 8, 1)` with ten classes, a mask after each activation."""
    inputs = keras.Input((8, 8, 1))
    x = _masked(layers.BatchNormalization()(_conv(32)(inputs)))
    x = _block(x, 32)
    x = _block(x, 64, strides=2)
    x = _block(x, 64)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="digits")


def train(digits: Digits, seed: int) -> Any:
    """Returns the network, trained with all its channels."""
    keras.utils.set_random_seed(seed)
    model = build()
    _fit(model, _adam(2e-3, TRAINING_EPOCHS, digits), digits, TRAINING_EPOCHS, "Training")
    return model


def prune(model: Any, digits: Digits) -> PruningOptimizer:
    """Prunes the network to `FLOPS_TARGET` and trains what is left; returns the optimizer that pruned."""
    optimizer = PruningOptimizer(
        keras.optimizers.SGD(5e-3, momentum=0.9), prune_every=4, burn_in=40, flops_target=FLOPS_TARGET
    )
    _fit(model, optimizer, digits, PRUNING_EPOCHS, "Pruning")
    # Any other optimizer leaves the masks as they are.
    _fit(model, _adam(1e-3, TUNING_EPOCHS, digits), digits, TUNING_EPOCHS, "Fine-tuning")
    return optimizer


def _block(x: Any, channels: int, strides: int = 1) -> Any:
    y = _masked(layers.BatchNormalization()(_conv(channels, strides=strides)(x)))
    y = layers.BatchNormalization()(_conv(channels)(y))
    if strides > 1:
        x = layers.BatchNormalization()(_conv(channels, size=1, strides=strides)(x))
    return _masked(layers.Add()([x, y]))


def _conv(channels: int, size: int = 3, strides: int = 1) -> Any:
    return layers.Conv2D(channels, size, strides=strides, padding="same", use_bias=False)


def _masked(x: Any) -> Any:
    return MaskLayer()(layers.ReLU()(x))


def _adam(rate: float, epochs: int, digits: Digits) -> Any:
    steps = epochs * -(-len(digits.train[0]) // BATCH)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def _fit(model: Any, optimizer: Any, digits: Digits, epochs: int, title: str) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    steps = epochs * -(-len(digits.train[0]) // BATCH)
    with progress.stage(title, steps) as stage:
        model.fit(*digits.train, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[_Watch(stage)])


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells how far training is, with the accuracy or the FLOPs left beside it; ends pruning in time."""

    def __init__(self, stage: progress.Stage) -> None:
        super().__init__()
        self.stage = stage

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if isinstance(self.model.optimizer, PruningOptimizer) and self.model.optimizer.reached:
            self.model.stop_training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        if isinstance(optimizer, PruningOptimizer):
            note = f"{optimizer.flops:,} FLOPs"
        else:
            note = f"accuracy {logs['accuracy']:.1%}"
        self.stage.advance(note=note)
