"""Keras networks, converted, with masks behind every activation or behind every layer with weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from tests.generators.check import (
    Runner,
    assert_exact,
    assert_explained,
    assert_same_function,
    assert_well_formed,
    check,
    random_feeds,
    with_sizes,
)

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from passes import shrink
from tests.models import networks

IMAGE = {"input_shape": (64, 64, 3), "classes": 10, "classifier_activation": None}
APPLICATIONS = ("VGG16", "ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0")
MODES = (("activation", True), ("activation", False), ("layer", False))

modes = pytest.mark.parametrize(
    ("kind", "consistent"), MODES, ids=["after-activations-consistent", "after-activations", "before-norms"]
)


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """Converted networks, kept from run to run."""
    return request.config.cache.mkdir("networks")  # type: ignore[union-attr]


def masked_gates(gates: networks.Gated, model: ModelProto) -> int:
    """How many channels the masks of the graph close."""
    names = {gate.name for gate in gates.gates}
    from onnx import numpy_helper

    return sum(int((numpy_helper.to_array(t) == 0).sum()) for t in model.graph.initializer if t.name in names)


@modes
def test_small_network(kind: str, consistent: bool, cache: Path) -> None:
    gates = networks.load("small", cache)
    model = gates.masked(kind, consistent=consistent)
    assert masked_gates(gates, model) > 0
    shrunk = check(model)
    if consistent:
        assert not shrunk.report.held
        assert sum(axis.removed for axis in shrunk.report.masked) > 0


def test_small_network_with_folded_masks() -> None:
    """The exporter has multiplied the masks into weights; Keras's own outputs are the reference."""
    import keras

    keras.utils.set_random_seed(0)
    model = networks.small()
    networks.randomise(model)
    copy, graph = networks.folded(model, "activation")
    shrunk = check(graph)
    assert not shrunk.report.held
    x = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype(np.float32)
    expected = np.asarray(copy(x, training=False))
    actual = Runner(shrunk.model)({graph.graph.input[0].name: x})[0]
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.slow
@modes
@pytest.mark.parametrize("name", APPLICATIONS)
def test_application(name: str, kind: str, consistent: bool, cache: Path, record_property: Any) -> None:
    gates = networks.load(name, cache, **IMAGE)
    model = gates.masked(kind, consistent=consistent)
    assert masked_gates(gates, model) > 1000
    shrunk = shrink(model)
    assert_well_formed(model, shrunk.model)
    errors = assert_same_function(model, shrunk.model, samples=1)
    assert max(errors.values()) < 1e-5
    assert_explained(shrunk.report)
    report = shrunk.report
    record_property("macs", f"{report.before.macs} -> {report.after.macs}")
    print(f"{name} {kind}: {report.before.macs} -> {report.after.macs} MACs, error {max(errors.values()):.1e}")
    if consistent:
        assert not report.held
        assert all(axis.removed == axis.masked for axis in report.masked)
    assert report.after.macs < 0.6 * report.before.macs


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["activation", "layer"])
@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2"])
def test_application_in_double(name: str, kind: str, cache: Path) -> None:
    """Where a wrong formula cannot hide behind rounding."""
    gates = networks.load(name, cache, **IMAGE)
    model = gates.masked(kind, consistent=False, seed=1)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    model = with_sizes(model, {batch: 1})
    assert assert_exact(model, cases=[random_feeds(model, 0)])


@pytest.mark.slow
def test_application_with_folded_masks() -> None:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, **IMAGE)
    networks.randomise(model)
    copy, graph = networks.folded(model, "activation")
    shrunk = shrink(graph)
    assert_same_function(graph, shrunk.model, samples=1)
    assert not shrunk.report.held
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(copy(x, training=False))
    actual = Runner(shrunk.model)({graph.graph.input[0].name: x})[0]
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())
