"""The examples in docstrings: each runs, in names that its reader would have, and what it shows is what comes out."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.maskc import build

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("maskc", "passes")
    for path in sorted((ROOT / package).rglob("*.py"))
    if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


class Checker(doctest.OutputChecker):
    """What an example does not show is not compared."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def names(module: str) -> dict[str, Any]:
    """What the examples of the training package take for granted: Keras, a model with a mask, its teacher and data."""
    if not module.startswith("maskc.train"):
        return {}
    import keras
    import tensorflow as tf

    import maskc.train

    def network(units: int) -> Any:
        hidden = maskc.train.MaskLayer(name="mask_layer")(
            keras.layers.Dense(units, "relu")(inputs := keras.Input((8,)))
        )
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, (64, 1))
    model, loss = network(16), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    known = {"keras": keras, "tf": tf, "model": model, "student": network(16), "teacher": network(32), "loss": loss}
    known["cost"] = maskc.train.computational_cost(model)
    public = {name: getattr(maskc.train, name) for name in maskc.train.__all__}
    return public | known | {"x": x, "y": y, "batches": [(x, y)]}


@pytest.mark.parametrize(
    "module",
    [pytest.param(m, marks=pytest.mark.tensorflow) if m.startswith("maskc.train") else m for m in MODULES],
)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build.save(build.mlp(), tmp_path / "model.onnx")
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=doctest.ELLIPSIS)
    told: list[str] = []
    for test in doctest.DocTestFinder().find(importlib.import_module(module)):
        if test.examples and "tfrecord" not in test.docstring:  # pages have such examples, with records
            test.globs |= {name: value for name, value in names(module).items() if name not in test.globs}
            runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
