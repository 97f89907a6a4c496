"""The examples in docstrings run, and give what they say where they say anything."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import maskc.train
from maskc.train import FeatureSpec, MaskLayer, computational_cost, write_records
from tests.test_docstrings import Checker

# They make a large network, or train and export one.
SLOW = ("prunable", "PruningTrainer")


def examples() -> Iterator[Any]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(maskc.train.__path__, "maskc.train."):
        for example in finder.find(importlib.import_module(module.name)):
            if example.examples:
                marks = [pytest.mark.slow] if example.name.rpartition(".")[2] in SLOW else []
                yield pytest.param(example, id=example.name.removeprefix("maskc.train."), marks=marks)


def network() -> Any:
    inputs = keras.Input((1,), name="age")
    x = MaskLayer(name="mask_layer")(keras.layers.Dense(64, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(x))


@pytest.mark.slow
@pytest.mark.parametrize("example", list(examples()))
@pytest.mark.filterwarnings("ignore")
def test_docstring(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train-0", "train", "test"):
        write_records(f"{name}.tfrecord", [{"age": float(age), "liked": age % 2.0} for age in range(20)])
    source = "".join(part.source for part in example.examples)
    given: dict[str, Any] = {name: network() for name in ("model", "student", "teacher") if name in source}
    if example.name.endswith(".Records"):
        given["model"].compile("sgd", "mse")
    if "cost" in source:
        given["cost"] = computational_cost(given.setdefault("model", network()))
    x, y = np.ones((8, 1), np.float32), np.zeros((8, 1), np.float32)
    given |= {"x": x, "y": y, "batches": [(x, y)], "loss": lambda y, z: tf.reduce_mean(tf.square(y - z))}
    spec = FeatureSpec(features={"age": {"kind": "dense"}}, label="liked")
    example.globs |= {"keras": keras, "tf": tf, "spec": spec, **vars(maskc.train), **given}
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=doctest.ELLIPSIS)
    assert not runner.run(example).failed
