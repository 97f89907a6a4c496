"""Batches and steps under a distribution strategy with several replicas.

Keras divides data sets among workers by files where it can, so that batches would hold other examples than those of
one worker. Here every worker reads every batch and takes its own share of it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from maskc.errors import InputError
from maskc.train.arguments import optimizer_of
from maskc.train.keras_internals import strategy_of


def placed(optimizer: Any, strategy: Any) -> Any:
    """The Keras optimizer (or that of this name), or one like it where it was not made under the strategy."""
    with strategy.scope():
        instance = optimizer_of(optimizer)
        if strategy.num_replicas_in_sync > 1 and strategy_of(instance) is not strategy:
            instance = instance.from_config(instance.get_config())
    return instance


def mirrored(count: int) -> Any:
    """A strategy over the first `count` GPUs of this machine, or over its CPU devices where it has no GPU.

    Raises InputError if there are fewer.
    """
    if count == 1:
        return tf.distribute.get_strategy()
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = tf.config.list_logical_devices(kind)
    if count > len(devices):
        raise InputError(f"{count} devices are asked for, and TensorFlow finds {len(devices)} {kind} device(s) here.")
    return tf.distribute.MirroredStrategy([device.name for device in devices[:count]])


def several_workers(strategy: Any) -> bool:
    """Whether the replicas are in several processes."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    tasks = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(addresses) for kind, addresses in tasks.items() if kind != "ps") > 1


def is_chief(strategy: Any) -> bool:
    """Whether this process is the one that writes files."""
    if not several_workers(strategy):
        return True
    resolver = strategy.cluster_resolver
    kind, index = resolver.task_type, resolver.task_id
    return kind == "chief" or (index == 0 and "chief" not in resolver.cluster_spec().as_dict())


def any_of(strategy: Any, flag: bool) -> bool:
    """Whether the flag is set in any of the workers, which wait for each other here."""
    if not several_workers(strategy):
        return flag
    return bool(_total(strategy)(tf.constant(int(flag))))


@functools.cache
def _total(strategy: Any) -> Any:
    """A function that adds up what the replicas are given."""

    @tf.function  # type: ignore[untyped-decorator]
    def total(value: Any) -> Any:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: value), axis=None)

    return total


def make_functions(model: Any) -> None:
    """Gives a compiled model functions that train and test on one share of a batch after the other.

    Keras's own average over replicas what each says of the metrics, which fails where these are several workers.
    """
    strategy = model.distribute_strategy

    def compiled(step: Any) -> Any:
        def run(share: Any) -> Any:
            logs = strategy.run(step, args=(share,))
            return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], logs)

        graph = tf.function(run, reduce_retracing=True, jit_compile=model.jit_compile)

        def function(shares: Any) -> Any:
            logs = None
            for share in shares:
                logs = graph(share)
            return logs

        return function

    model.train_function, model.test_function = compiled(model.train_step), compiled(model.test_step)


def equal_shares(strategy: Any, batches: Any) -> Iterator[Any]:
    """Divides each batch equally among the replicas; the few examples that are left over are left out."""
    count = strategy.num_replicas_in_sync
    for batch in batches:
        if each := _size(batch) // count:
            yield _divided(strategy, batch, each * count)


def all_shares(strategy: Any, batches: Any) -> Iterator[Any]:
    """Divides all examples among the replicas, some of which are given one more than others, and none nothing.

    Raises InputError if there are fewer examples than replicas.
    """
    count = strategy.num_replicas_in_sync
    ready = rest = None  # what is given out next, and what may be too little
    for batch in batches:
        rest = batch if rest is None else _joined(rest, batch)
        if _size(rest) >= count:
            if ready is not None:
                yield _divided(strategy, ready, _size(ready))
            ready, rest = rest, None
    if ready is None:
        raise InputError(f"There are fewer examples to validate on than the {count} replicas.")
    last = ready if rest is None else _joined(ready, rest)
    yield _divided(strategy, last, _size(last))


def _divided(strategy: Any, batch: Any, size: int) -> Any:
    """The first so many examples of a batch, divided among the replicas."""
    count = strategy.num_replicas_in_sync
    bounds = [size * index // count for index in range(count + 1)]

    def share(tensor: Any) -> Any:
        def own(context: Any) -> Any:
            index = context.replica_id_in_sync_group
            return tf.convert_to_tensor(tensor[bounds[index] : bounds[index + 1]])

        return strategy.experimental_distribute_values_from_function(own)

    return tf.nest.map_structure(share, batch)


def _joined(first: Any, second: Any) -> Any:
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), first, second)


def _size(batch: Any) -> int:
    return int(tf.nest.flatten(batch)[0].shape[0])
