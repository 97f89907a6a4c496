"""Keras networks, converted, with masks behind every activation or behind every layer with weights."""

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from tests.generators.check import assert_exact, assert_same_function, check, perturbed
from tests.generators.form import assert_explained, assert_well_formed
from tests.generators.running import Runner, random_feeds, with_sizes
from tests.marks import often

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from passes import shrink
from passes.pipeline.report import Report
from tests.models import networks

MODES = (("activation", True), ("activation", False), ("layer", False))

# One of each family. Those that take long are compiled with masks in other tests, too.
FAMILIES = ("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionV3", "MobileNet")
FAMILIES += ("MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception")
OFTEN = ("EfficientNetB0", "MobileNetV2", "MobileNetV3Small")
OTHERS = tuple(
    "ConvNeXtBase ConvNeXtLarge ConvNeXtSmall ConvNeXtXLarge DenseNet169 DenseNet201 EfficientNetB1 EfficientNetB2 "
    "EfficientNetB3 EfficientNetB4 EfficientNetB5 EfficientNetB6 EfficientNetB7 EfficientNetV2B1 EfficientNetV2B2 "
    "EfficientNetV2B3 EfficientNetV2L EfficientNetV2M EfficientNetV2S InceptionResNetV2 MobileNetV3Large NASNetLarge "
    "ResNet101 ResNet101V2 ResNet152 ResNet152V2 VGG19".split()
)

# Everything masked goes, but where a residual sum puts zeros next to a branch that was never masked.
HOLDERS = {"ConvNeXt": {"Add"}, "MobileNetV3": {"Add"}}

# Two pools of one tensor need different channels of it: leaving out a few takes an operator, which `always` allows.
SHARED = ("NASNet",)


def options(name: str) -> dict[str, Any]:
    """The smallest images that the network takes, or nearly."""
    side = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}.get(name, 32)
    return {"input_shape": (side, side, 3), "classes": 10, "classifier_activation": None}


def masked_gates(gates: networks.Gated, model: ModelProto) -> int:
    """How many channels the masks of the graph close."""
    names = {gate.name for gate in gates.gates}
    return sum(int((numpy_helper.to_array(t) == 0).sum()) for t in model.graph.initializer if t.name in names)


def compiled_exactly(model: ModelProto, title: str) -> Report:
    """What the compiler says of the model, once its result has been found to be the same function."""
    shrunk = shrink(model)
    assert_well_formed(model, shrunk.model)
    errors = assert_same_function(model, shrunk.model, samples=1)
    assert max(errors.values()) < 1e-5
    assert_explained(shrunk.report)
    report = shrunk.report
    print(f"{title}: {report.before.macs} -> {report.after.macs} MACs, error {max(errors.values()):.1e}")
    return report


def converted(name: str) -> networks.Gated:
    """The network, once its graph has been found to agree with Keras."""
    gates = networks.load(name, **options(name))
    model, scale = gates.opened(), float(np.abs(gates.scores).max())
    actual = Runner(model)({"image": gates.images})[0]
    limit = 1e-4 * scale
    if np.abs(actual - gates.scores).max() > limit:  # a deep network may move that far when its weights are rounded
        moved = [Runner(perturbed(model, seed))({"image": gates.images})[0] for seed in range(3)]
        limit = min(2 * max(float(np.abs(m - actual).max()) for m in moved), 1e-3 * scale)
    np.testing.assert_allclose(actual, gates.scores, rtol=0, atol=limit)
    return gates


def check_consistent(name: str, gates: networks.Gated) -> None:
    model = gates.masked("activation", consistent=True)
    assert masked_gates(gates, model) > 1000
    report = compiled_exactly(model, f"{name}, consistent")
    if name.startswith(SHARED):
        assert {held.code for held in report.held} == {"K601"}
        assert sum(axis.removed for axis in report.masked) > 0.9 * sum(axis.masked for axis in report.masked)
        report = shrink(model, adapters="always").report
    holders = next((ops for family, ops in HOLDERS.items() if name.startswith(family)), set())
    assert {held.op for held in report.held} <= holders, report.held
    if not holders:
        assert all(axis.removed == axis.masked for axis in report.masked)
    assert report.after.macs < 0.6 * report.before.macs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "consistent"), MODES, ids=["after-activations-consistent", "after-activations", "before-norms"]
)
def test_small_network(kind: str, consistent: bool) -> None:
    gates = networks.load("small")
    model = gates.masked(kind, consistent=consistent)
    assert masked_gates(gates, model) > 0
    shrunk = check(model)
    if consistent:
        assert not shrunk.report.held
        assert sum(axis.removed for axis in shrunk.report.masked) > 0


@pytest.mark.parametrize(
    ("name", "tolerance"), [("small", 2e-5), pytest.param("MobileNetV2", 1e-4, marks=pytest.mark.slow)]
)
def test_folded_masks(name: str, tolerance: float) -> None:
    """The exporter has multiplied the masks into weights; Keras's own outputs are the reference."""
    model = networks.built(name, **options(name))
    copy, graph = networks.folded(model, "activation")
    shrunk = check(graph, exact=name == "small", twice=name == "small")
    assert not shrunk.report.held
    x = np.random.default_rng(0).normal(size=(3, *model.inputs[0].shape[1:])).astype(np.float32)
    expected = np.asarray(copy(x, training=False))
    actual = Runner(shrunk.model)({graph.graph.input[0].name: x})[0]
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())


def test_all_applications_are_named() -> None:
    import keras

    available = {name for name in dir(keras.applications) if name[0].isupper()}
    assert available == {*FAMILIES, *OTHERS}


@pytest.mark.release
@pytest.mark.parametrize("name", OTHERS)
def test_larger_member_of_a_family(name: str) -> None:
    check_consistent(name, converted(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", often(FAMILIES, set(FAMILIES).difference(OFTEN)))
def test_family(name: str) -> None:
    """Every kind of mask, and double precision, where a wrong formula cannot hide behind rounding."""
    gates = converted(name)
    check_consistent(name, gates)
    for kind in ("activation", "layer"):
        model = gates.masked(kind, consistent=False, seed=1)
        report = compiled_exactly(model, f"{name}, independent after each {kind}")
        assert report.after.macs < 0.6 * report.before.macs
        fixed = with_sizes(model, {model.graph.input[0].type.tensor_type.shape.dim[0].dim_param: 1})
        assert assert_exact(fixed, cases=[random_feeds(fixed, 0)])
