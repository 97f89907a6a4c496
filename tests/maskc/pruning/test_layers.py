"""Layers as least squares, and channels that go from them."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import passes
from maskc.frontend.graph_queries import showing
from maskc.pruning.choice import surgeon
from maskc.pruning.choice.surgeon import RIDGE, Layer, Moments
from maskc.pruning.layers.contractions import layers
from maskc.pruning.layers.network import Reader
from maskc.pruning.layers.places import network
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from passes.sizes.prepare import between_steps
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
    found = layers(model)
    ((layer,), weight) = found.contractions, found.constants.values["w"]
    matrix = layer.matrix(weight)
    np.testing.assert_array_equal(layer.stored(matrix), weight)
    rows = np.concatenate(list(layer.rows(x, 10**9, np.random.default_rng(0))), axis=1)
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
    constants = layers(model).constants
    weight = constants.values["w"]
    x = drawn(5, 8)
    np.testing.assert_allclose(x @ weight, OnnxRuntimeSession(model).run({"x": x})["y"], rtol=1e-4)
    np.testing.assert_array_equal(constants.stored({"w": weight})["q"], q)
    assert constants.stored({"w": weight + 1e9})["q"].min() == 255


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_know_their_channels_and_rows(name: str) -> None:
    """Zeroing a group makes those channels of a layer's input constant that go with it, and no others."""
    model = NETWORKS[name]()
    net = network(between_steps(model), inputs(model))
    assert any((reader.group_of.max(axis=0) >= 0).all() for reader in net.readers)
    sources = [reader.contraction.source for reader in net.readers]
    session = OnnxRuntimeSession(showing(net.model, sources))
    none = np.zeros(len(net.fixed), bool)
    for reader in net.readers:
        if (reader.group_of.max(axis=0) < 0).any():
            continue
        gone = none.copy()
        gone[reader.group_of.max()] = True
        values = session.run({**inputs(model), **net.masks(gone)})[reader.contraction.source]
        parts = reader.contraction.rows(values, 10**9, np.random.default_rng(0))
        still = np.ptp(np.concatenate(list(parts), axis=1), axis=1) < 1e-6
        np.testing.assert_array_equal(still, reader.lost(gone))


def test_what_a_loss_costs_is_what_least_squares_leaves() -> None:
    model = NETWORKS["convolution"]()
    net = network(model, inputs(model))
    reader = next(r for r in net.readers if r.contraction.channels == 16)
    matrix = reader.contraction.matrix(net.layers.constants.values[reader.contraction.weights])
    reader = Reader(reader.contraction, np.repeat(np.arange(16) // 2, 9)[None, None])  # in pairs
    x = drawn(40, 16, 9, 9)
    moments = Moments.of(reader, matrix, seed=0)
    rows = np.concatenate(list(reader.contraction.rows(x, 10**9, np.random.default_rng(0))), axis=1)
    moments.add(rows)
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


def test_a_wide_layer_is_seen_by_what_channels_contribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgeon, "WIDE", 0)
    found = layers(between_steps(NETWORKS["gemm"]()))
    last = found.contractions[-1]
    matrix, rows = last.matrix(found.constants.values[last.weights]), drawn(1, 40, 16)
    moments = Moments.of(Reader(last, np.arange(16)[None, None]), matrix, seed=0)
    moments.add(rows[:, :30])
    moments.add(rows[:, 30:])
    contributed = rows[0, :, :, None] * matrix  # to each output
    expected = np.einsum("nio,njo->ij", contributed, contributed) / 40
    np.testing.assert_allclose(moments.mean()[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", sorted(NETWORKS.keys() - {"attention", "both_ways", "recurrent", "integers", "repeated"})
)
def test_what_a_loss_costs_is_what_running_without_the_channel_shows(name: str) -> None:
    """The second layer, or two with the same weights, without each of a few groups, which the others make up for."""
    model = NETWORKS[name]()
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "first")
    if first.data_type != TensorProto.INT8:  # where half of the channels follow from the others, nothing is lost
        values = drawn(*first.dims, seed=3).astype(helper.tensor_dtype_to_np_dtype(first.data_type))
        first.CopyFrom(numpy_helper.from_array(values, "first"))
    model = passes.shrink(between_steps(model)).model
    net, batch = network(model, inputs(model)), inputs(model)
    known = [r for r in net.readers if r.contraction.channels > 6 and (r.group_of.max(axis=0) >= 0).all()]
    last = [reader for reader in known if reader.contraction.weights == known[-1].contraction.weights]
    layer, constants = last[0].contraction, net.layers.constants
    moments = Moments.of(last[0], layer.matrix(constants.values[layer.weights]), seed=0)
    shown = showing(net.model, [reader.contraction.source for reader in last])
    values = OnnxRuntimeSession(shown).run({**batch, **net.masks(np.zeros(len(net.fixed), bool))})
    for reader in last:
        source = values[reader.contraction.source]
        for rows in reader.contraction.rows(source, 10**9, np.random.default_rng(0)):
            moments.add(rows)
    seen = Layer(moments)
    second = moments.total / moments.count
    ridge = RIDGE * np.trace(second, axis1=1, axis2=2)[:, None, None] / second.shape[1]
    errors, rounded = seen.errors(len(net.fixed)), 1e-3 if layer.weights in constants.steps else 0.0
    for group in sorted(seen.labels, key=errors.__getitem__)[-3:]:
        gone = np.arange(len(net.fixed)) == group
        taken = seen.copy()
        taken.without([group])
        shift = taken.weights[:, -1].reshape(-1)
        biases = {r.contraction.bias: r.contraction for r in last}
        changed = {name: layer.shifted(constants.values[name], shift) for name, layer in biases.items() if name}
        pruned = constants.put(net.masked(gone), {**changed, layer.weights: taken.stored()})
        lost = np.square(OnnxRuntimeSession(pruned).run(batch)["y"].astype(float) - values["y"]).sum() / moments.count
        lost += (ridge * np.square(taken.weights - seen.weights)).sum()
        assert lost / seen.energy == pytest.approx(errors[group], rel=1e-3, abs=rounded)


def test_a_bias_that_another_layer_reads_is_copied() -> None:
    """Also one that is made of the same integers; a layer's own stays."""
    text = """g (float[n,6] x) => (float[n,3] y, float[n,3] z, float[n,3] u) {
        h = Gemm<transB = 1>(x, first) r = Relu(h)
        a = DequantizeLinear(q, s) b = DequantizeLinear(q, t) y = Gemm(r, second, a) z = Gemm(r, third, b)
        u = Gemm(r, fourth, own) }"""
    weights = {"first": drawn(16, 6), **{name: drawn(16, 3) for name in ("second", "third", "fourth")}}
    scales = {"s": np.float32(0.01), "t": np.float32(0.02)}
    model = made(text, {**weights, **scales, "q": np.zeros(3, np.int32), "own": drawn(3)})
    biases = [reader.contraction.bias for reader in network(model, inputs(model)).readers]
    assert biases == ["h/maskc_bias", "y/maskc_bias", "z/maskc_bias", "own"]


def test_packed_numbers_are_written_as_they_were_read() -> None:
    text = """g (float[n,40] x) => (float[n,3] y) {
        y = com.microsoft.MatMulNBits<K = 40, N = 3, bits = 4, block_size = 16>(x, w, s, z) }"""
    rng = np.random.default_rng(0)
    packed, zeros = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((3, 3, 8), (3 * 2,)))
    packed[:, 2, 4:] = 0
    model = made(text, {"w": packed, "s": np.abs(drawn(9)) + 0.1, "z": zeros})
    ((layer,), constants) = (found := layers(model)).contractions, found.constants
    x, weight = drawn(5, 40), constants.values["w"]
    expected = OnnxRuntimeSession(model).run({"x": x})["y"]
    np.testing.assert_allclose(x @ layer.matrix(weight)[0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(constants.stored({"w": weight})["w"], packed)


@pytest.mark.parametrize(("body", "widened"), [("y = Add(r, c)", {"w": "b"}), ("y = Gemm(r, w, c)", {})])
def test_steps_that_another_layer_reads_are_not_widened(body: str, widened: dict[str, str]) -> None:
    """Its bias would keep the scale of the others."""
    text = f"""g (float[n,6] x) => (float[n,6] y) {{ w = DequantizeLinear(levels, scale)
        b = DequantizeLinear(bias, small) c = DequantizeLinear(other, least) h = Gemm(x, w, b) r = Relu(h) {body} }}"""
    scales = {"scale": np.float32(0.1), "small": np.float32(0.01), "least": np.float32(0.01)}
    biases = {name: np.arange(first, first + 6, dtype=np.int32) for first, name in enumerate(("bias", "other"))}
    model = made(text, {"levels": np.ones((6, 6), np.int8), **scales, **biases})
    assert layers(model).constants.widened == widened
