"""Single training steps of a compiled model on data of any form, without `fit`."""

from __future__ import annotations

import contextlib
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maskc.errors import InputError, MaskcError
from maskc.frontend.tensorflow.importing import reason
from maskc.train.arguments import check_count, check_kind
from maskc.train.data.records import Records
from maskc.train.running import replicas
from passes.errors import in_brief

# The batches of an epoch, as a tf.data.Dataset, without the first few.
Epochs = Callable[[int, int], Any]

# How many steps a model made whose executions hold several.
_counters: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


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
    check_count("batch_size", batch_size, 1)
    if isinstance(data, Records):
        return data
    if isinstance(data, tf.data.Dataset):
        return lambda epoch, skip: data.skip(skip)
    if isinstance(data, tuple):
        try:
            examples = tf.data.Dataset.from_tensor_slices(data)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise InputError(f"The arrays do not make examples, equally many in each: {in_brief(error)}.") from error
        count = max(1, int(examples.cardinality()))

        def shuffled(epoch: int, skip: int) -> Any:
            order = examples.shuffle(count, seed=seed * 1_000_003 + epoch, reshuffle_each_iteration=False)
            return order.batch(batch_size).skip(skip)

        return shuffled
    if callable(data) and not isinstance(data, (keras.utils.PyDataset, keras.Layer, type)):
        return lambda epoch, skip: _epoch(data, epoch).skip(skip)
    raise InputError(
        "The data must be Records, a tuple of arrays, a tf.data.Dataset, or a function of the epoch that gives one, "
        f"not {type(data).__name__}."
    )


def batches_of(data: Any, epochs: Epochs) -> int:
    """Returns how many batches an epoch has; 0 if nobody knows."""
    return data.count_batches() if isinstance(data, Records) else max(0, int(epochs(0, 0).cardinality()))


def _epoch(data: Callable[[int], Any], epoch: int) -> Any:
    try:
        batches = data(epoch)
    except TypeError as error:
        if getattr(error.__traceback__, "tb_next", None) is not None:  # of what the function does
            raise
        raise InputError(f"The data are a function that cannot be called with an epoch: {in_brief(error)}.") from error
    check_kind("What the function of the epoch gives", batches, tf.data.Dataset, "a tf.data.Dataset")
    return batches


@contextlib.contextmanager
def explained(*sources: Any) -> Iterator[None]:
    """Where TensorFlow fails in this block, raises the error that one of the sources makes of that instead.

    `explain` of `Records` tells of records that do not fit, that of a `PruningOptimizer` what a decision failed at.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for source in sources:
            if explanation := getattr(source, "explain", lambda error: None)(error):
                raise explanation from error
        raise


def prepare(model: Any, train: Epochs, validation: Epochs | None) -> None:
    """Creates all that training a compiled model needs: weights, the optimizer's state, metrics.

    Raises InputError if there is nothing to train or to validate on, or the model does not take it.
    """
    firsts: list[Any] = []
    for what, epochs in (("train", train), ("validate", validation)):
        firsts += [] if epochs is None else [next(iter(epochs(0, 0)), None)]
        if None in firsts[-1:]:
            raise InputError(f"There is no example to {what} on.")
    strategy = model.distribute_strategy
    with strategy.scope():
        if replicas.several_workers(strategy):
            replicas.make_functions(model)
        try:
            for first in firsts:
                model.test_on_batch(*first)
        except MaskcError:
            raise
        except Exception as error:  # a loss and metrics may do anything
            raise InputError(f"The model {model.name!r} or the loss does not fit the data: {reason(error)}.") from error
        model.reset_metrics()
        model.optimizer.build(model.trainable_variables)
        if model.steps_per_execution > 1 and strategy.num_replicas_in_sync == 1:
            _count_steps(model)
    model.make_train_function()


def steps(model: Any, batches: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Trains on each batch of a `tf.data.Dataset` once.

    Yields after each execution how many steps it held (`steps_per_execution`, or what was left of the data) and the
    metrics so far. Under a distribution strategy every replica is given an equal share of each batch, and the few
    examples of an epoch's last one that cannot be divided so are left out.
    """
    strategy, several = model.distribute_strategy, model.steps_per_execution
    if strategy.num_replicas_in_sync > 1:
        shares = replicas.equal_shares(strategy, batches)
        while chunk := list(itertools.islice(shares, several)):
            yield len(chunk), model.train_function(iter(chunk))
    elif several > 1:
        yield from _executions(model, strategy.experimental_distribute_dataset(batches))
    else:
        # Keras's step is not given the iterator itself: what of the step does not depend on the data, such as the
        # count of iterations, may run before TensorFlow notices that there are none left.
        for batch in strategy.experimental_distribute_dataset(batches):
            yield 1, model.train_function(iter((batch,)))


def end_epoch(model: Any, validation: Epochs | None) -> dict[str, float]:
    """Returns the metrics of an epoch by name; those of validation begin with `val_`."""
    metrics = {name: number(value) for name, value in model.get_metrics_result().items()}
    if validation is not None:
        metrics.update({f"val_{name}": number(value) for name, value in _evaluate(model, validation(0, 0)).items()})
    return metrics


def number(value: Any) -> float:
    """Returns a scalar tensor as a number."""
    return float(np.asarray(value))


def _evaluate(model: Any, batches: Any) -> dict[str, Any]:
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        with warnings.catch_warnings():
            # Keras warns that the data end, if it did not know where.
            warnings.simplefilter("ignore")
            metrics: dict[str, Any] = model.evaluate(batches, verbose=0, return_dict=True)
        return metrics
    model.reset_metrics()
    with strategy.scope():
        model.make_test_function()
    for share in replicas.all_shares(strategy, batches):
        model.test_function(iter((share,)))
    return dict(model.get_metrics_result())


def _count_steps(model: Any) -> None:
    """Lets the model count its steps: nothing else says how many the last execution of an epoch held."""
    counter, step = tf.Variable(0, dtype=tf.int64), model.train_step

    def counted(data: Any) -> Any:
        counter.assign_add(1)
        return step(data)

    _counters[model] = counter
    model.train_step = counted
    model.make_train_function()
    del model.train_step  # the class's own again


def _executions(model: Any, batches: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    iterator, counter = iter(batches), _counters[model]
    while True:
        before = int(counter.numpy())
        try:
            logs = model.train_function(iterator)
        except StopIteration:
            return
        yield int(counter.numpy()) - before, logs
