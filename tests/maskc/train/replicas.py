"""Trains a small network and prints what was pruned as JSON: alone, on two devices of one process, or as a worker.

    python -m tests.maskc.train.replicas alone DIRECTORY
    python -m tests.maskc.train.replicas mirrored DIRECTORY
    TF_CONFIG=... python -m tests.maskc.train.replicas worker DIRECTORY

Each way sees the same twelve batches of eight examples, split over the replicas where there are several.
"""

import json
import sys
from pathlib import Path
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
import numpy as np  # noqa: E402

from maskc.train import PruningOptimizer, PruningTrainer, distill, fine_tune  # noqa: E402
from tests.maskc.train.networks import LOSS, data, plain, residual  # noqa: E402

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


def by_trainer() -> dict[str, Any]:
    """A run of two epochs; with several replicas it is taken up again after the first one."""

    def trained(epochs: int) -> tuple[PruningTrainer, Any]:
        keras.utils.set_random_seed(1)
        with STRATEGY.scope():
            model = plain()
        trainer = PruningTrainer(
            *(model, LOSS, sys.argv[2], "sgd", ["accuracy"]),
            pruning_iter=2,
            pruning_burn_in=0,
            pruning_decay=0.5,
            pruning_flops_target=0.5,
            batch_size=BATCH,
        )
        # To validate, the last batch has one example, fewer than there are replicas.
        held_out = data(model, count=2 * BATCH + 1)
        return trainer, trainer.train(data(model, count=7 * BATCH), held_out, epochs)

    if WAY != "alone":
        trained(1)
    trainer, position = trained(2)
    exported = trainer.export_model(Path(sys.argv[2]) / "model")
    assert exported.flops == trainer.flops
    return {**pruned_by(trainer.optimizer), "metrics": {**position.metrics, **tuned(trainer.model)}}


def tuned(model: Any) -> dict[str, float]:
    """The losses of fine-tuning what is pruned, and of its distillation from a teacher."""
    keras.utils.set_random_seed(2)
    with STRATEGY.scope():
        teacher = plain()
    x, y = data(model, count=5 * BATCH)
    weight = np.linspace(0.5, 2, len(y), dtype=np.float32)
    options: dict[str, Any] = {"loss": LOSS, "epochs": 2, "optimizer": "sgd", "batch_size": BATCH}
    fine = fine_tune(model, (x, y), **options)
    taught = distill(model, teacher, (x, y, weight), alpha=0.9, **options)
    return {
        f"{name} {way}": history[name][-1] for way, history in (("fine", fine), ("taught", taught)) for name in history
    }


def pruned_by(optimizer: Any) -> dict[str, Any]:
    rows = [(entry.step, entry.mask, entry.channel, entry.flops) for entry in optimizer.history]
    return {"pruned": rows, "signals": [layer.signal.numpy().tolist() for layer in optimizer.masked_layers()]}


def main() -> None:
    report = {"trainer": by_trainer()}
    cases = [(by_loop, "mean", "fisher"), (by_loop, "mean", "random")]
    if WAY != "worker":  # fit of Keras 3 does not run on several workers
        cases += [(by_loop, "sum", "taylor"), (by_fit, "sum_over_batch_size", "fisher"), (by_fit, "sum", "magnitude")]
    for train, reduction, method in cases:
        report[f"{train.__name__} {reduction} {method}"] = pruned_by(train(reduction, method))
    print("REPORT", json.dumps(report), flush=True)


main()
