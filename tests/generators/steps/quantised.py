"""Steps of a random network that compute with few bits."""

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.generators.builder import Array, Builder, Value


def steps(b: Builder, shape: list[int], live: Array, axis: int) -> Array:
    """int8 weights, zero where `live` is not, along the axis."""
    w = b.weights.integers(-60, 60, size=shape).astype(np.int8)
    return w * live.astype(np.int8).reshape([-1 if a == axis else 1 for a in range(len(shape))])


def dequantised(b: Builder, w: Array, axis: int) -> str:
    """The name of these weights behind a DequantizeLinear: one scale, one for each channel, or one for each block."""
    form = b.pick(("tensor", "channel", "block"))
    attributes: dict[str, Any] = {}
    shape: tuple[int, ...] = ()
    if form == "channel":
        shape, attributes = (w.shape[axis],), {"axis": axis}
    elif form == "block" and b.opset >= 21:
        other = b.some(0, w.ndim - 1)
        block = b.some(1, max(w.shape[other], 1))
        shape = tuple(-(-d // block) if a == other else d for a, d in enumerate(w.shape))
        attributes = {"axis": other, "block_size": block}
    operands = [b.const(w, np.int8), b.const(b.positive(*shape) * 0.02, np.float32)]
    if b.flip(0.7):
        operands.append(b.const(b.weights.integers(-3, 4, size=shape) * int(b.flip(0.5)), np.int8))
    return b.raw("DequantizeLinear", operands, **attributes)[0]


def product(b: Builder, v: Value) -> Value | None:
    """A product whose weights are int8 behind DequantizeLinear."""
    if b.dtype != TensorProto.FLOAT or v.axis != v.rank - 1 or v.rank < 2 or b.opset < 13:
        return None
    m = b.width(1, 6)
    b.sharp = False
    if b.flip(0.3):
        name = dequantised(b, steps(b, [m, v.channels], b.keep(m), 0), 0)
        name = b.raw("Transpose", [name], perm=[1, 0])[0]
    else:
        name = dequantised(b, steps(b, [v.channels, m], b.keep(m), 1), 1)
    if b.flip(0.3) and v.rank == 2:
        return b.op("Gemm", [v, name, b.const(b.normal(m))], [*v.shape[:-1], m], v.rank - 1)
    return b.op("MatMul", [v, name], [*v.shape[:-1], m], v.rank - 1)


def convolution(b: Builder, v: Value) -> Value | None:
    """A convolution with int8 weights and at times an int32 bias, each behind DequantizeLinear."""
    if b.dtype != TensorProto.FLOAT or not v.is_image or b.opset < 13:
        return None
    m, groups = b.width(1, 6), 1
    if b.flip(0.3):
        groups, m = v.channels, v.channels * b.some(1, 2)
    b.sharp = False
    dims = v.rank - 2
    kernel = b.pick((1, 3))
    w = steps(b, [m, v.channels // groups, *[kernel] * dims], b.keep(m), 0)
    operands: list[str | Value] = [v, dequantised(b, w, 0)]
    if b.flip(0.5):
        zero = b.const(np.zeros((), np.int32), np.int32)
        values = b.weights.integers(-200, 200, size=m).astype(np.int32)
        scale = b.const(np.array(0.003), np.float32)
        operands.append(b.raw("DequantizeLinear", [b.const(values, np.int32), scale, zero])[0])
    pads = [kernel // 2] * 2 * dims
    return b.op("Conv", operands, [v.shape[0], m, *v.shape[2:]], 1, pads=pads, group=groups)


def pair(b: Builder, v: Value) -> Value | None:
    """QuantizeLinear and DequantizeLinear of the activations."""
    if b.dtype != TensorProto.FLOAT or b.opset < 10:
        return None
    b.sharp = False
    signed = b.pick((np.int8, np.uint8))
    shape = (v.channels,) if b.opset >= 13 and b.flip(0.3) else ()
    attributes = {"axis": b.pick((v.axis, v.axis - v.rank))} if shape else {}
    zero = b.weights.integers(-9, 9, size=shape) if signed is np.int8 else b.weights.integers(90, 150, size=shape)
    operands = [b.const(b.positive(*shape) * 0.03, np.float32), b.const(zero, signed)]
    name = b.raw("QuantizeLinear", [v, *operands], **attributes)[0]
    return b.like("DequantizeLinear", Value(name, v.shape, v.axis), *operands, **attributes)


def dynamic(b: Builder, v: Value) -> Value | None:
    """A product of integers, whose data is quantised with a scale found at run time or given."""
    if b.dtype != TensorProto.FLOAT or v.axis != v.rank - 1 or v.rank < 2 or b.opset < 13:
        return None
    b.sharp = False
    m = b.width(1, 6)
    w = b.const(steps(b, [v.channels, m], b.keep(m), 1), np.int8)
    if b.flip(0.6):
        data, scale, zero = b.raw("DynamicQuantizeLinear", [v], 3)
    else:
        scale, zero = b.const(np.array(0.03), np.float32), b.const(np.array(120), np.uint8)
        data = b.raw("QuantizeLinear", [v, scale, zero])[0]
    sums = b.raw("MatMulInteger", [data, w, zero])[0]
    floats = b.raw("Cast", [sums], to=TensorProto.FLOAT)[0]
    y = b.op("Mul", [floats, scale], [*v.shape[:-1], m], v.rank - 1)
    return b.like("Mul", y, b.const(np.array(0.01), np.float32))


def integer_convolution(b: Builder, v: Value) -> Value | None:
    """QLinearConv between given scales."""
    if b.dtype != TensorProto.FLOAT or not v.is_image or v.rank != 4 or b.opset < 13:
        return None
    b.sharp = False
    m, kernel = b.width(1, 6), b.pick((1, 3))
    groups = 1 if b.flip(0.6) else b.pick([n for n in range(1, v.channels + 1) if v.channels % n == 0])
    m = m if groups == 1 else groups * b.some(1, 3)
    shape = (m,) if b.flip(0.5) else ()
    scale, zero = b.const(np.array(0.03), np.float32), b.const(np.array(120), np.uint8)
    data = b.raw("QuantizeLinear", [v, scale, zero])[0]
    w = b.const(steps(b, [m, v.channels // groups, kernel, kernel], b.keep(m), 0), np.int8)
    out = [b.const(np.array(0.05), np.float32), b.const(np.array(b.pick((0, 128))), np.uint8)]
    weights = [w, b.const(b.positive(*shape) * 0.02, np.float32), b.const(np.zeros(shape), np.int8)]
    operands = [data, scale, zero, *weights, *out]
    if b.flip(0.5):
        operands.append(b.const(b.weights.integers(-300, 300, size=m) * b.keep(m), np.int32))
    y = b.op("QLinearConv", operands, [v.shape[0], m, *v.shape[2:]], 1, pads=[kernel // 2] * 4, group=groups)
    return b.like("DequantizeLinear", y, *out)
