"""Layers as least squares, and channels that go from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from maskc.frontend.graph_queries import showing
from maskc.pruning.choice.surgeon import RIDGE, Layer, Moments
from maskc.pruning.layers.contractions import contractions
from maskc.pruning.layers.network import Reader
from maskc.pruning.layers.places import network
from maskc.pruning.layers.stored_weights import stored, written
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from tests.maskc.pruning.networks import NETWORKS, drawn, inputs
from tests.maskc.pruning.networks import network as made

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "Conv": ((2, 3, 9, 9), (4, 3, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
    "Conv, groups": ((2, 6, 9, 9), (4, 3, 3, 3), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "Conv, 1x1": ((2, 6, 9, 9), (4, 6, 1, 1), {}),
    "ConvTranspose": ((2, 3, 5, 5), (3, 4, 3, 3), {"strides": [2, 2], "output_padding": [1, 1]}),
    "ConvTranspose, groups": ((2, 6, 5, 5), (6, 2, 2, 2), {"group": 3, "pads": [1, 0, 1, 0]}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_rows_times_matrix_is_the_layer(case: str) -> None:
    shape, weights, attributes = CONVOLUTIONS[case]
    node = helper.make_node(case.split(",")[0], ["x", "w"], ["y"], **attributes)
    model = made("g (float[2,?,?,?] x) => (float[?,?,?,?] y) { y = Identity(x) }", {"w": drawn(*weights)})
    model.graph.node[0].CopyFrom(node)
    x = drawn(*shape)
    (layer,) = contractions(model, stored(model), {}, {})
    matrix = layer.matrix(stored(model)["w"])
    np.testing.assert_array_equal(layer.stored(matrix), stored(model)["w"])
    rows = layer.rows(x, 10**9, np.random.default_rng(0))
    found = np.concatenate(list(rows.astype(np.float64) @ matrix), axis=1)
    expected = np.moveaxis(OnnxRuntimeSession(model).run({"x": x})["y"], 1, -1)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-4)


@pytest.mark.parametrize("attributes", ["axis = 0, block_size = 4", "axis = 1", ""])
def test_weights_of_steps_are_written_as_they_were_read(attributes: str) -> None:
    shape = {"axis = 1": (3,), "": ()}.get(attributes, (2, 3))
    scale, zero = np.abs(drawn(*shape)) + 0.1, np.full(shape, 3, np.uint8)
    text = f"g (float[n,8] x) => (float[n,3] y) {{ w = DequantizeLinear<{attributes}>(q, s, z) y = MatMul(x, w) }}"
    text = text.replace("<>", "")
    q = np.random.default_rng(0).integers(0, 256, (8, 3)).astype(np.uint8)
    model = made(text, {"q": q, "s": scale, "z": zero}, opset=21)
    weight = stored(model)["w"]
    x = drawn(5, 8)
    np.testing.assert_allclose(x @ weight, OnnxRuntimeSession(model).run({"x": x})["y"], rtol=1e-4)
    np.testing.assert_array_equal(written(model, {"w": weight})["q"], q)
    assert written(model, {"w": weight + 1e9})["q"].min() == 255


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_know_their_channels_and_rows(name: str) -> None:
    """Zeroing a group makes those channels of a layer's input constant that go with it, and no others."""
    model = NETWORKS[name]()
    net = network(NETWORKS[name](), inputs(model))
    assert any((reader.group_of >= 0).all() for reader in net.readers)
    sources = [reader.contraction.source for reader in net.readers]
    session = OnnxRuntimeSession(showing(net.model, sources))
    none = np.zeros(len(net.fixed), bool)
    for reader in net.readers:
        if (reader.group_of < 0).any():
            continue
        gone = none.copy()
        gone[reader.group_of[0]] = True
        values = session.run({**inputs(model), **net.masks(gone)})[reader.contraction.source]
        rows = np.moveaxis(values, reader.contraction.axis, -1).reshape(-1, reader.contraction.channels)
        still = np.ptp(rows, axis=0) < 1e-6
        np.testing.assert_array_equal(still, gone[reader.group_of])


def test_what_a_loss_costs_is_what_least_squares_leaves() -> None:
    model = NETWORKS["convolution"]()
    net = network(model, inputs(model))
    reader = next(r for r in net.readers if r.contraction.channels == 16)
    matrix = reader.contraction.matrix(stored(net.model)[reader.contraction.weights])
    reader = Reader(reader.contraction, np.arange(16) // 2)  # in pairs
    x = drawn(40, 16, 9, 9)
    moments = Moments.of(reader, matrix, seed=0)
    moments.add(rows := reader.contraction.rows(x, 10**9, np.random.default_rng(0)))
    layer = Layer(moments)
    errors = layer.errors(8)
    ones = np.concatenate([rows[0], np.ones((len(rows[0]), 1))], axis=1).astype(np.float64)
    second = ones.T @ ones / len(ones)
    second += RIDGE * np.trace(second) / len(second) * np.eye(len(second))
    whole = np.concatenate([matrix[0], np.zeros((1, 3))])
    for gone in ([2], [2, 5]):
        left = np.setdiff1d(np.arange(len(second)), [18 * g + i for g in gone for i in range(18)])
        solved = np.zeros_like(whole)
        solved[left] = np.linalg.solve(second[np.ix_(left, left)], second[left] @ whole)
        lost = np.einsum("io,ij,jo->", whole - solved, second, whole - solved) / layer.energy
        if len(gone) == 1:
            np.testing.assert_allclose(errors[gone[0]], lost, rtol=1e-4)
        taken = layer.copy()
        taken.without(gone)
        np.testing.assert_allclose(taken.weights[0], solved, atol=1e-5)  # products are in single precision
