"""Small networks in which half of the hidden channels follow from the others, so that half can go for nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper, parser

Array = NDArray[np.float32]


def network(text: str, weights: dict[str, Any], opset: int = 17, ir: int = 8) -> ModelProto:
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    onnx.checker.check_model(model)
    return model


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def doubled(weights: Array, axis: int) -> Array:
    """The weights, and the same again times a factor for each, which a Relu keeps."""
    shape = [1] * weights.ndim
    shape[axis] = weights.shape[axis]
    factors = np.random.default_rng(1).uniform(0.5, 2, shape).astype(np.float32)
    return np.concatenate([weights, weights * factors], axis=axis)


def gemm() -> ModelProto:
    text = "g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h) y = MatMul(r, second) }"
    return network(text, {"first": doubled(drawn(8, 6), 0), "second": drawn(16, 3)})


def convolution() -> ModelProto:
    text = """g (float[n,2,9,9] x) => (float[n,3,5,5] y) { h = Conv<pads = [1,1,1,1]>(x, first) r = Relu(h)
        y = Conv<pads = [1,1,1,1], strides = [2,2]>(r, second, bias) }"""
    return network(text, {"first": doubled(drawn(8, 2, 3, 3), 0), "second": drawn(3, 16, 3, 3), "bias": drawn(3)})


def depthwise() -> ModelProto:
    text = """g (float[n,2,9,9] x) => (float[n,3,9,9] y) { h = Conv(x, first) r = Relu(h)
        d = Conv<group = 16, pads = [1,1,1,1]>(r, each) y = Conv(d, second) }"""
    each = np.repeat(drawn(1, 1, 3, 3), 16, axis=0)
    return network(text, {"first": doubled(drawn(8, 2, 1, 1), 0), "each": each, "second": drawn(3, 16, 1, 1)})


def transposed() -> ModelProto:
    text = """g (float[n,2,5,5] x) => (float[n,3,10,10] y) { h = Conv(x, first) r = Relu(h)
        y = ConvTranspose<strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]>(r, second) }"""
    return network(text, {"first": doubled(drawn(8, 2, 1, 1), 0), "second": drawn(16, 3, 3, 3)})


def from_the_left() -> ModelProto:
    """In double precision."""
    text = "g (double[n,6,5] x) => (double[n,3,5] y) { h = MatMul(first, x) r = Relu(h) y = MatMul(second, r) }"
    return network(text, {"first": doubled(drawn(8, 6), 0).astype(float), "second": drawn(3, 16).astype(float)})


def recurrent() -> ModelProto:
    """A GRU whose second half does what the first does, which both read."""
    text = """g (float[7,n,4] x) => (float[7,n,3] y) { s, last = GRU<hidden_size = 16>(x, w, r, b)
        h = Squeeze(s, axis) y = MatMul(h, second) }"""
    gates = [np.tile(drawn(8, 4, seed=gate), (2, 1)) for gate in range(3)]
    states = [np.tile(0.3 * drawn(8, 8, seed=gate), (2, 2)) / 2 for gate in range(3)]
    biases = [np.tile(0.1 * drawn(8, seed=gate), 2) for gate in range(6)]
    w, r, b = (np.concatenate(parts)[None] for parts in (gates, states, biases))
    return network(text, {"w": w, "r": r, "b": b, "second": drawn(16, 3), "axis": np.array([1])})


def both_ways() -> ModelProto:
    """An LSTM in both directions, of each of which the second half does what the first does."""
    text = """g (float[7,n,4] x) => (float[7,n,3] y) {
        s = LSTM<hidden_size = 16, direction = "bidirectional">(x, w, r, b)
        t = Transpose<perm = [0,2,1,3]>(s) h = Reshape(t, flat) y = MatMul(h, second) }"""
    gates = [[np.tile(drawn(8, 4, seed=gate + 4 * way), (2, 1)) for gate in range(4)] for way in range(2)]
    states = [[np.tile(0.3 * drawn(8, 8, seed=gate + 4 * way), (2, 2)) / 2 for gate in range(4)] for way in range(2)]
    biases = [[np.tile(0.1 * drawn(8, seed=gate + 8 * way), 2) for gate in range(8)] for way in range(2)]
    w, r, b = (np.stack([np.concatenate(parts) for parts in both]) for both in (gates, states, biases))
    return network(text, {"w": w, "r": r, "b": b, "second": drawn(32, 3), "flat": np.array([0, 0, -1])})


def attention() -> ModelProto:
    """Four heads, of which the last two do what the first two do."""
    split = "= Reshape({0}, split) {1} = Transpose<perm = [0,2,1,3]>"
    text = f"""g (float[n,5,8] x) => (float[n,5,8] y) {{
        q = MatMul(x, wq) qs {split.format("q", "qt")}(qs) k = MatMul(x, wk) ks = Reshape(k, split)
        kt = Transpose<perm = [0,2,3,1]>(ks) v = MatMul(x, wv) vs {split.format("v", "vt")}(vs)
        a = MatMul(qt, kt) p = Softmax(a) o = MatMul(p, vt) ot = Transpose<perm = [0,2,1,3]>(o)
        m = Reshape(ot, merge) y = MatMul(m, wo) }}"""
    heads = {name: np.tile(drawn(8, 8, seed=i), (1, 2)) for i, name in enumerate(("wq", "wk", "wv"))}
    shapes = {"split": np.array([0, 5, 4, 4]), "merge": np.array([0, 5, 16])}
    return network(text, {**heads, **shapes, "wo": drawn(16, 8)})


def steps(*shape: int) -> NDArray[np.int8]:
    """Weights of integers, with room for larger ones."""
    return np.random.default_rng([*shape]).integers(-40, 41, shape).astype(np.int8)


def quantised() -> ModelProto:
    """Weights in steps for each output, and in steps for all, from a zero point."""
    text = """g (float[n,6] x) => (float[n,3] y) { a = DequantizeLinear<axis = 0>(first, each)
        h = Gemm<transB = 1>(x, a) r = Relu(h) b = DequantizeLinear(second, scale, zero) y = MatMul(r, b) }"""
    first, each = np.tile(steps(8, 6), (2, 1)), np.abs(drawn(16)) / 40 + 0.01
    zero = np.array(3, np.int8)
    weights = {"first": first, "each": each, "second": steps(16, 3), "scale": np.float32(0.02), "zero": zero}
    return network(text, weights)


def integers() -> ModelProto:
    """A product of integers, whose data are quantised by their range."""
    text = """g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h)
        q, s, z = DynamicQuantizeLinear(r) i = MatMulInteger(q, second, z, zero) f = Cast<to = 1>(i) m = Mul(f, s)
        y = MatMul(m, third) }"""
    weights = {"first": doubled(drawn(8, 6), 0), "second": steps(16, 3), "third": drawn(3, 3)}
    return network(text, {**weights, "zero": np.array([3, 0, -2], np.int8)})


def steps_in_and_out() -> ModelProto:
    """Convolutions of integers, as static quantisation writes them, with a bias in steps."""
    text = """g (float[n,2,9,9] x) => (float[n,3,9,9] y) { q = QuantizeLinear(x, scale, zero)
        h = QLinearConv(q, scale, zero, first, each, none, wide, low)
        i = QLinearConv<pads = [1,1,1,1]>(h, wide, low, second, small, zero8, wider, zero, bias)
        y = DequantizeLinear(i, wider, zero) }"""
    first, bias = np.tile(steps(8, 2, 1, 1), (2, 1, 1, 1)), np.array([9, 0, -400], np.int32)
    scales = {"scale": 0.03, "wide": 0.03, "wider": 0.06, "small": 0.01, "each": np.full(16, 0.03)}
    zeros = {"zero": np.uint8(128), "low": np.uint8(0), "zero8": np.int8(0), "none": np.zeros(16, np.int8)}
    weights = {"first": first, "second": steps(3, 16, 3, 3), "bias": bias, **zeros}
    return network(text, weights | {name: np.asarray(value, np.float32) for name, value in scales.items()}, opset=12)


def blocks() -> ModelProto:
    """A weight in blocks of numbers of 8 bits."""
    text = """g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h)
        y = com.microsoft.MatMulNBits<K = 32, N = 3, bits = 8, block_size = 16>(r, second, scales) }"""
    second = (128 + steps(3, 2, 16).astype(int)).astype(np.uint8)
    first = np.tile(drawn(16, 6), (2, 1))
    return network(text, {"first": first, "second": second, "scales": np.full((3, 2), 0.02, np.float32)})


def scaled() -> ModelProto:
    """Products and biases times numbers."""
    text = """g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1, alpha = 0.5>(x, first) r = Relu(h)
        y = Gemm<alpha = -2.0, beta = 3.0>(r, second, bias) }"""
    return network(text, {"first": doubled(drawn(8, 6), 0), "second": drawn(16, 3), "bias": drawn(3)})


def summed_axes() -> ModelProto:
    """A dense layer for each of four places, and one that sums places and channels."""
    text = """g (float[n,4,6] x) => (float[n,3] y) { h = Einsum<equation = "npi,pic->npc">(x, first) r = Relu(h)
        y = Einsum<equation = "npc,cop->no">(r, second) }"""
    return network(text, {"first": doubled(drawn(4, 6, 8), 2), "second": drawn(16, 3, 4)})


def experts() -> ModelProto:
    """Dense layers of four experts, of which each has samples of its own."""
    text = """g (float[4,n,6] x) => (float[4,n,3] y) { h = MatMul(x, first) a = Add(h, bias) r = Relu(a)
        y = MatMul(r, second) }"""
    first, bias = doubled(drawn(4, 6, 8), 2), np.zeros((4, 1, 16), np.float32)
    return network(text, {"first": first, "second": drawn(4, 16, 3), "bias": bias})


def per_channel() -> ModelProto:
    """Weights of each channel's own, as a depthwise convolution has them."""
    text = """g (float[n,2,5] x) => (float[n,3] y) { h = Conv(x, first) r = Relu(h)
        e = Einsum<equation = "nct,ctu->ncu">(r, each) y = Einsum<equation = "ncu,cuo->no">(e, second) }"""
    each = np.repeat(drawn(1, 5, 2), 16, axis=0)
    return network(text, {"first": doubled(drawn(8, 2, 1), 0), "each": each, "second": drawn(16, 2, 3)})


def twins() -> ModelProto:
    """Two towers that end in the same weights."""
    text = """g (float[n,6] x) => (float[n,2,3] y) { h = MatMul(x, first) r = Relu(h) a = MatMul(r, same)
        i = MatMul(x, other) s = Relu(i) b = MatMul(s, same) aa = Unsqueeze(a, axis) bb = Unsqueeze(b, axis)
        y = Concat<axis = 1>(aa, bb) }"""
    first, other = (doubled(drawn(6, 8, seed=seed), 1) for seed in (0, 1))
    return network(text, {"first": first, "other": other, "same": drawn(16, 3), "axis": np.array([1])})


def repeated() -> ModelProto:
    """A layer that comes twice, one after the other."""
    text = """g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h) a = MatMul(r, same)
        b = Relu(a) c = MatMul(b, same) d = Relu(c) y = MatMul(d, second) }"""
    same = doubled(drawn(16, 8) / 4, 1)
    return network(text, {"first": doubled(drawn(8, 6), 0), "same": same, "second": drawn(16, 3)})


NETWORKS: dict[str, Callable[[], ModelProto]] = {
    made.__name__: made
    for made in (
        *(gemm, convolution, depthwise, transposed, from_the_left, recurrent, both_ways, attention),
        *(quantised, integers, steps_in_and_out, blocks, scaled, summed_axes, experts, per_channel, twins, repeated),
    )
}


def in_files(directory: Path) -> list[Any]:
    """The words of `maskc prune` for the first network and inputs of it, which lie in a directory, as the result will.

    They are model.onnx, x.npy and small.onnx.
    """
    onnx.save(gemm(), directory / "model.onnx")
    np.save(directory / "x.npy", drawn(100, 6))
    return ["prune", directory / "model.onnx", "--data", directory / "x.npy", "-o", directory / "small.onnx"]


def inputs(model: ModelProto, count: int = 120, seed: int = 0) -> dict[str, Array]:
    """Samples of the model's input; of sequences, the samples lie along the second axis and are one batch."""
    value = model.graph.input[0]
    shape = [d.dim_value or count for d in value.type.tensor_type.shape.dim]
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return {value.name: drawn(*shape, seed=seed).astype(kind)}
