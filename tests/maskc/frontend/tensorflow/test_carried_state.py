"""Models that go on from call to call are refused, and what is only assigned is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maskc
from maskc.errors import InputError

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def keras() -> Any:
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


def test_a_stateful_layer_is_refused_in_memory_and_in_a_saved_model(keras: Any, tf: Any, tmp_path: Path) -> None:
    inner = keras.Sequential([keras.layers.GRU(3, stateful=True, name="memory")])
    model = keras.Sequential([keras.Input((5, 2), batch_size=2), inner])
    variables = [variable.value for variable in (*model.variables, *inner.layers[0].states)]
    for source in (model, _saved(tf, model, variables, tmp_path, (2, 5, 2))):
        with pytest.raises(InputError, match=r"goes on from batch to batch.*'.*memory.*'.*stateful=False"):
            maskc.compile(source, verify=False)


def test_a_variable_that_is_assigned_and_read_is_refused(tf: Any, tmp_path: Path) -> None:
    """Where it is assigned in a branch, in what is called, and before it is read."""
    count, average = tf.Variable(0.0, name="count"), tf.Variable([0.0, 0.0], name="average")

    def counts(x: Any) -> Any:
        tf.cond(tf.reduce_sum(x) > 0, lambda: count.assign_add(1.0), lambda: count + 0.0)
        return x * count

    @tf.function
    def update(x: Any) -> None:
        average.assign(average * 0.9 + tf.reduce_mean(x, 0))

    def normalizes(x: Any) -> Any:
        update(x)
        return x - average

    def row(x: Any) -> Any:
        average.scatter_nd_update([[0]], x[0, :1])
        return x + average

    for function, name in ((counts, "count"), (normalizes, "average"), (row, "average")):
        saved = _saved(tf, function, [count, average], tmp_path / function.__name__)
        with pytest.raises(InputError, match=f"goes on from batch to batch.*variable '{name}'"):
            maskc.compile(saved, verify=False)


def test_a_variable_that_is_assigned_alone_is_left_out(tf: Any, tmp_path: Path) -> None:
    """A counter of calls, an average that is for training: TensorFlow computes the same in each call."""
    calls, average = tf.Variable(0, name="calls"), tf.Variable([0.0, 0.0], name="average")
    weight = tf.Variable(np.eye(2, 3, dtype=np.float32))

    def counted(x: Any) -> Any:
        calls.assign_add(1)
        average.assign_sub((average - tf.reduce_mean(x, 0)) * 0.1)
        return x @ weight

    report = maskc.compile(_saved(tf, counted, [calls, average, weight], tmp_path / "model")).report
    assert report.verification is not None and report.verification.passed
    assert report.verification.outputs[0].against


def _saved(
    tf: Any, function: Any, variables: list[Any], directory: Path, shape: tuple[int | None, ...] = (None, 2)
) -> Path:
    """A SavedModel with one signature, of one input."""
    module = tf.Module()
    module.variables_of_it = variables
    module.serve = tf.function(lambda x: function(x))
    signature = module.serve.get_concrete_function(tf.TensorSpec(shape, tf.float32, "x"))
    tf.saved_model.save(module, directory, signatures=signature)
    return directory
