"""Training step by step, with what `model.compile` set up and without `fit` around it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from maskc.errors import InputError
from maskc.train.epochs import Epochs


def prepare(model: Any, train: Epochs) -> None:
    """Creates all that training a compiled model needs: weights, the optimizer's state, metrics.

    Raises:
        InputError: if there is nothing to train on.
    """
    first = next(iter(train(0, 0)), None)
    if first is None:
        raise InputError("There is no example to train on.")
    with model.distribute_strategy.scope():
        model.test_on_batch(*first)
        model.reset_metrics()
        model.optimizer.build(model.trainable_variables)
    model.make_train_function()


def steps(model: Any, batches: Any) -> Iterator[dict[str, Any]]:
    """Trains on each batch of a `tf.data.Dataset` once, and yields the metrics so far after each."""
    # Keras's step is not given the iterator itself: what of the step does not depend on the data, such as the count of
    # iterations, may run before TensorFlow notices that there are none left.
    for batch in model.distribute_strategy.experimental_distribute_dataset(batches):
        yield model.train_function(iter((batch,)))


def end_epoch(model: Any, validation: Epochs | None) -> dict[str, float]:
    """Returns the metrics of an epoch by name; those of validation begin with `val_`."""
    metrics = {name: number(value) for name, value in model.get_metrics_result().items()}
    if validation is not None:
        with warnings.catch_warnings():
            # Keras warns that the data end, if it did not know where.
            warnings.simplefilter("ignore")
            found = model.evaluate(validation(0, 0), verbose=0, return_dict=True)
        metrics.update({f"val_{name}": number(value) for name, value in found.items()})
    return metrics


def number(value: Any) -> float:
    """Returns a scalar tensor as a number."""
    return float(np.asarray(value))
