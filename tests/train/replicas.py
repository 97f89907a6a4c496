"""Trains a small network and prints what was pruned as JSON: alone, on two devices of one process, or as a worker.

    python -m tests.train.replicas alone
    python -m tests.train.replicas mirrored
    TF_CONFIG=... python -m tests.train.replicas worker

Each way sees the same twelve batches of eight examples, split over the replicas where there are several.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import tensorflow as tf

WAY = sys.argv[1]
if WAY == "mirrored":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
elif WAY == "worker":
    STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()
else:
    STRATEGY = tf.distribute.get_strategy()

import keras  # noqa: E402

from maskc.train import PruningOptimizer  # noqa: E402
from tests.train.networks import data, plain, residual  # noqa: E402

BATCH = 8


def pruning(**arguments: Any) -> Any:
    inner = keras.optimizers.SGD(0.05)
    return PruningOptimizer(inner, prune_every=2, decay=0.5, flops_target=0.5, **arguments)


def batches(model: Any) -> Any:
    return tf.data.Dataset.from_tensor_slices(data(model, count=12 * BATCH)).batch(BATCH)


def by_fit(reduction: str, method: str) -> Any:
    keras.utils.set_random_seed(1)
    with STRATEGY.scope():
        model = plain()
        optimizer = pruning(method=method)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction))
    model.fit(batches(model), shuffle=False, verbose=0)
    return optimizer


def by_loop(reduction: str, method: str) -> Any:
    keras.utils.set_random_seed(1)
    with STRATEGY.scope():
        model = residual() if method == "random" else plain()
        optimizer = pruning(method=method, model=model, loss_reduction=reduction)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    share = BATCH if reduction == "mean" else 1

    def step(x: Any, y: Any) -> Any:
        return optimizer.minimize(lambda: tf.reduce_sum(loss(y, model(x, training=True))) / share)

    run = tf.function(lambda x, y: STRATEGY.run(step, args=(x, y)))
    for x, y in STRATEGY.experimental_distribute_dataset(batches(model)):
        run(x, y)
    return optimizer


def main() -> None:
    report = {}
    cases = [(by_loop, "mean", "fisher"), (by_loop, "sum", "taylor"), (by_loop, "mean", "random")]
    if WAY != "worker":  # fit of Keras 3 does not run on several workers
        cases += [(by_fit, "sum_over_batch_size", "fisher"), (by_fit, "sum", "fisher")]
        cases += [(by_fit, "sum_over_batch_size", "magnitude")]
    for train, reduction, method in cases:
        optimizer = train(reduction, method)
        rows = [(entry.step, entry.mask, entry.channel, entry.flops) for entry in optimizer.history]
        signals = [layer.signal.numpy().tolist() for layer in optimizer._layers()]
        report[f"{train.__name__} {reduction} {method}"] = {"pruned": rows, "signals": signals}
    print("REPORT", json.dumps(report), flush=True)


main()
