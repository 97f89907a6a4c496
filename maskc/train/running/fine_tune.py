"""Training after pruning, with the masks as they are."""

from __future__ import annotations

from typing import Any

import keras

from maskc.errors import InputError
from maskc.train.mask_layer import mask_layers
from maskc.train.optimizer.pruning_optimizer import PruningOptimizer
from maskc.train.running.epochs import as_epochs, explained
from maskc.train.running.replicas import placed
from maskc.train.running.stepping import end_epoch, prepare, steps


def fine_tune(
    model: Any,
    data: Any,
    *,
    epochs: int = 5,
    optimizer: Any = "adam",
    loss: Any = None,
    metrics: Any = None,
    validation_data: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Trains what pruning left of a model, and leaves its masks and signals as they are.

    Args:
        model: built; it is compiled anew.
        data: a tuple of arrays `(x, y)` or `(x, y, weight)`, `Records`, a `tf.data.Dataset` of batches, or a function
            of the epoch that gives one.
        epochs: how often to go through the data.
        optimizer: a Keras optimizer or its name, but no `PruningOptimizer`.
        loss: by default that which the model was compiled with.
        metrics: Keras metrics.
        validation_data: like `data`, for metrics that begin with `val_`.
        batch_size: of arrays.
        seed: of the shuffling of arrays.

    Returns:
        The metrics of each epoch, by name.

    Example:
        >>> model.compile(PruningOptimizer("adam", flops_target=0.1), "mse")
        >>> model.fit(x, y, epochs=20)
        >>> fine_tune(model, (x, y), epochs=5)

    Raises:
        InputError: if there is no loss, or the data are of another kind.
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"What is fine-tuned must be a Keras model, not a {type(model).__name__}.")
    if isinstance(optimizer, PruningOptimizer):
        raise InputError("fine_tune leaves the masks as they are: give it the optimizer of the weights alone.")
    loss = getattr(model, "loss", None) if loss is None else loss
    if loss is None:
        raise InputError(f"There is no loss to train the model {model.name!r} with: pass loss=.")
    with model.distribute_strategy.scope():
        model.compile(placed(optimizer, model.distribute_strategy), loss, metrics=metrics)
    train = as_epochs(data, batch_size, seed)
    held_out = None if validation_data is None else as_epochs(validation_data, batch_size)
    # Weight decay would move the signals, which count as trainable.
    signals = [(layer.signal, layer.signal.numpy()) for layer in mask_layers(model)]
    history: dict[str, list[float]] = {}
    prepare(model, train, held_out)
    with explained(data, validation_data):
        for epoch in range(epochs):
            model.reset_metrics()
            for _ in steps(model, train(epoch, 0)):
                pass
            for name, value in end_epoch(model, held_out).items():
                history.setdefault(name, []).append(value)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for signal, value in signals:
        signal.assign(value)
    return history
