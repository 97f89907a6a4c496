"""Decisions and conversions happen inside the training step and must not wait for its threads."""

import subprocess
import sys

import pytest

PROGRAM = """
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
import keras
from maskc.train import PruningOptimizer
from tests.maskc.train.networks import data, plain
model = plain()
batches = tf.data.Dataset.from_tensor_slices(data(model, 40)).repeat().batch(4).prefetch(2)
optimizer = PruningOptimizer("sgd", prune_every=2, flops_target=0.5)
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(batches, steps_per_epoch=30, verbose=0)
assert len(optimizer.history) > 2
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_one_thread_is_enough() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
