"""Replicas prune together exactly what one of them would prune on whole batches."""

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

ROOT = Path(__file__).parents[4]
LIMIT = 900  # seconds, for any of the processes


@contextlib.contextmanager
def started(way: str, directory: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The program in a process of its own, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.maskc.train.replicas", way, str(directory)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def report(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=LIMIT)
    (line,) = [line for line in output.splitlines() if line.startswith("REPORT ")]
    return dict(json.loads(line.removeprefix("REPORT ")))


@functools.cache
def alone() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory, started("alone", Path(directory)) as process:
        return report(process)


def same(found: dict[str, Any]) -> None:
    for case, result in found.items():
        expected = alone()[case]
        assert len(expected["pruned"]) > 2
        assert result["pruned"] == expected["pruned"], case
        for ours, theirs in zip(result["signals"], expected["signals"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * max(theirs), err_msg=case)
        for name, value in expected.get("metrics", {}).items():
            assert result["metrics"][name] == pytest.approx(value, rel=1e-4), name


def test_two_devices_of_one_process(tmp_path: Path) -> None:
    with started("mirrored", tmp_path) as process:
        found = report(process)
    assert len(found) == 6
    same(found)


def test_two_workers_on_the_loopback_interface(tmp_path: Path) -> None:
    with contextlib.ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in range(2)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        cluster = {"worker": [f"127.0.0.1:{one.getsockname()[1]}" for one in held]}
    configurations = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}) for i in range(2)]
    with contextlib.ExitStack() as running:
        workers = [running.enter_context(started("worker", tmp_path, TF_CONFIG=c)) for c in configurations]
        found = [report(worker) for worker in workers]
    for one in found:
        assert len(one) == 3
        same(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "training"]


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


def test_one_thread_is_enough() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
