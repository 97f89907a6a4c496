"""Data in whatever form, as the batches of one epoch from a position on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from maskc.errors import InputError
from maskc.train.data.records import Records
from passes.errors import in_brief

# The batches of an epoch, as a tf.data.Dataset, without the first few.
Epochs = Callable[[int, int], Any]


def as_epochs(data: Any, batch_size: int = 32, seed: int = 0) -> Epochs:
    """Returns a function of an epoch and a number of batches to skip, which gives a `tf.data.Dataset`.

    Args:
        data: `Records`; or a tuple of arrays `(x, y)` or `(x, y, weight)`, each of shape `(examples, ...)` or nested,
            which are shuffled anew in every epoch; or a `tf.data.Dataset` of batches, which must have the same order
            whenever it is read for an interrupted run to go on exactly; or a function of the epoch that gives one.
        batch_size: of arrays.
        seed: of the shuffling of arrays.

    Raises:
        InputError: if it is something else, or the arrays have unlike numbers of examples.
    """
    if isinstance(data, Records):
        return data
    if isinstance(data, tf.data.Dataset):
        return lambda epoch, skip: data.skip(skip)
    if isinstance(data, tuple):
        if batch_size < 1:
            raise InputError(f"The batch size must be at least 1, not {batch_size}.")
        try:
            examples = tf.data.Dataset.from_tensor_slices(data)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise InputError(f"The arrays do not make examples, equally many in each: {in_brief(error)}.") from error
        count = max(1, int(examples.cardinality()))

        def shuffled(epoch: int, skip: int) -> Any:
            order = examples.shuffle(count, seed=seed * 1_000_003 + epoch, reshuffle_each_iteration=False)
            return order.batch(batch_size).skip(skip)

        return shuffled
    if callable(data) and not isinstance(data, keras.utils.PyDataset):
        return lambda epoch, skip: data(epoch).skip(skip)
    raise InputError(
        "The data must be Records, a tuple of arrays, a tf.data.Dataset, or a function of the epoch that gives one, "
        f"not {type(data).__name__}."
    )


@contextlib.contextmanager
def explained(*sources: Any) -> Iterator[None]:
    """Where TensorFlow fails in this block, raises the error that one of the sources makes of that instead.

    `explain` of `Records` tells of records that do not fit, that of a `PruningOptimizer` what a decision failed at.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for source in sources:
            if told := getattr(source, "explain", lambda error: None)(error):
                raise told from error
        raise
