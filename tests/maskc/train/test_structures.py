"""Each way to build and train a Keras model works to the end, or ends in one sentence."""

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest

import maskc
import tests.maskc.train.structures  # noqa: F401, more of the structures
from maskc.errors import InputError
from maskc.train import PruningOptimizer, computational_cost, fine_tune, shrink
from maskc.train.keras_internals import all_layers
from maskc.train.mask_layer import mask_layers
from tests.marks import often
from tests.maskc.train.ways_to_train import BATCH, STRUCTURES, WAYS, Trained

# They take as long as all others together, and what they have the others have in other places.
RARE = (
    "accumulated gradients",
    "a network at every step",
    "an application with a head",
    "an eager loop",
    "brain floats",
    "cells",
    "loss scaling in a loop",
    "losses that add up",
    "moving averages swapped in",
    "padded into a nested model",
    "padded into attention",
    "padded into every step",
    "recurrent images",
)


def outputs(model: Any, x: Any) -> list[np.ndarray]:
    some = keras.tree.map_structure(lambda array: array[:BATCH], x)
    return [np.asarray(y, np.float64) for y in keras.tree.flatten(model(some, training=False))]


def of_onnx(compiled: Any, x: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(compiled.model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = zip(session.get_inputs(), keras.tree.flatten(x), strict=True)
    kinds = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(float16)": np.float16}
    return session.run(None, {port.name: array[:BATCH].astype(kinds[port.type]) for port, array in feeds})


def check(expected: list[np.ndarray], actual: list[Any], tolerance: float) -> None:
    for one, other in zip(expected, actual, strict=True):
        assert np.abs(one - other).max() <= tolerance * max(1.0, np.abs(one).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", often(WAYS, RARE))
def test_life_of_what_is_trained_in_many_ways(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    live(WAYS[name](), tmp_path, compiled="precision" in name or "floats" in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", often(STRUCTURES, RARE))
def test_life(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    make, sentence = STRUCTURES[name]
    with pytest.raises(InputError, match=sentence) if sentence else contextlib.nullcontext():
        live(make(), tmp_path)


def live(trained: Trained, path: Path, *, compiled: bool = True) -> None:
    """Trains, prunes, saves, loads, shrinks and fine-tunes a model, whose outputs are then the same, and compiles it.

    That only if `compiled`: how it was trained the file does not show.
    """
    trained.fit(trained, path)
    model, x, y = trained.model, trained.x, trained.y
    half = any("16" in layer.compute_dtype for layer in all_layers(model))
    tolerance = 2e-2 if half else 1e-5
    assert any((layer.mask.numpy() == 0).any() for layer in mask_layers(model)), "nothing was pruned"
    expected = outputs(model, x)
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, PruningOptimizer):
        assert optimizer.flops == pytest.approx(computational_cost(model).flops(), rel=0.1)  # that with its weights

    model.save(path / "model.keras")
    loaded = keras.models.load_model(path / "model.keras", compile=False)
    check(expected, outputs(loaded, x), 1e-6)
    small = shrink(model)
    check(expected, outputs(small, x), tolerance)
    assert small.count_params() < model.count_params()
    if compiled:
        made = maskc.compile(path / "model.keras", align="none", samples=2)
        check(expected, of_onnx(made, x), tolerance)
        assert maskc.compile(small, align="none", verify=False).report.after.flops <= 1.05 * made.report.after.flops
    if type(model) not in (keras.Sequential, keras.Model):
        assert type(small) is type(model) and getattr(small, "factor", None) == getattr(model, "factor", None)
    if not model.compiled:
        fine_tune(small, (x, y), loss="mse", epochs=1, batch_size=32)
    else:
        assert small.loss == model.loss
        expected_metrics = model.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True)
        metrics = small.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True)
        assert metrics.keys() == expected_metrics.keys()
        if not model.losses:  # penalties on weights count those that are gone
            assert metrics == pytest.approx(expected_metrics, rel=0.1 if half else 1e-3, abs=tolerance)
        small.fit(x, y, batch_size=BATCH, steps_per_epoch=5, verbose=0)
    assert all(np.isfinite(output).all() for output in outputs(small, x))
