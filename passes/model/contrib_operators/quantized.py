"""Operators on quantised numbers: dequantised, computed and quantised again, or products of integers, scaled."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.graph.subgraphs import with_bodies
from passes.graph.tensors import element_of, is_standard, shape_of
from passes.model.contrib_operators.call import Call, Decompose

# The opset from which softmax has one axis.
_ONE_AXIS = 13

#: the opset from which on the standard's steps can have these integers
SINCE_STEPS = 21
_STEPS = {onnx.TensorProto.INT16, onnx.TensorProto.UINT16, onnx.TensorProto.INT4, onnx.TensorProto.UINT4}


def opset_of_steps(graph: gs.Graph) -> int:
    """The opset from which on the standard's own operators have the integers that ONNX Runtime's are used for here."""
    nodes = (n for scope in with_bodies(graph) for n in scope.nodes if n.op in ("QuantizeLinear", "DequantizeLinear"))
    wide = any(element_of(t.dtype) in _STEPS for n in nodes if not is_standard(n) for t in n.inputs)
    return SINCE_STEPS if wide else graph.opset


def steps(op: str) -> Decompose:
    """The operator of the same name, where the standard's has these element types in the opset."""
    return lambda call: [call.op(op, *map(call.given, range(3)), **call.attrs)]


def elementwise(op: str, first: int | None = None, second: int | None = None) -> Decompose:
    """QLinearAdd and its like: two operands, each with its scale and zero point, and those of the result.

    first, second: the axes that scales run along. A bias counts in steps of both scales.
    """

    def write(call: Call) -> Sequence[gs.Tensor]:
        bias, along = call.given(8), {"axis": 0} if shape_of(call.node.inputs[4]) not in ((), (1,)) else {}
        if bias is not None:
            bias = call.op("DequantizeLinear", bias, call.op("Mul", *call.node.inputs[1:5:3]), **along)
        a, b = _dequantized(call, 0, 1, 2, axis=first), _dequantized(call, 3, 4, 5, axis=second)
        return [_quantized(call, call.op(op, a, b, bias, **call.attrs), 6, 7, call.node.inputs[0])]

    return write


def unary(op: str) -> Decompose:
    """QLinearSigmoid and its like: an operand and the result, each with its scale and zero point."""

    def write(call: Call) -> Sequence[gs.Tensor]:
        attrs = {name: value for name, value in call.attrs.items() if name != "channels_last"}
        return [_quantized(call, call.op(op, _dequantized(call, 0, 1, 2), **attrs), 3, 4, call.node.inputs[0])]

    return write


def softmax(call: Call) -> Sequence[gs.Tensor]:
    """Softmax as the opset in the attribute has it, which may be older than the model's."""
    x, axis = _dequantized(call, 0, 1, 2), int(call.attrs.get("axis", -1))
    several, last = int(call.attrs["opset"]) < _ONE_AXIS, axis in (-1, call.rank(x) - 1)
    call.needs(last or several == (call.opset < _ONE_AXIS))
    return [_quantized(call, call.op("Softmax", x, axis=axis), 3, 4, call.node.inputs[0])]


def where(call: Call) -> Sequence[gs.Tensor]:
    """One of two operands."""
    y = call.op("Where", call.node.inputs[0], _dequantized(call, 1, 2, 3), _dequantized(call, 4, 5, 6))
    return [_quantized(call, y, 7, 8, call.node.inputs[1])]


def concat(call: Call) -> Sequence[gs.Tensor]:
    """Operands with scales and zero points of their own."""
    parts = [_dequantized(call, index, index + 1, index + 2) for index in range(2, len(call.node.inputs), 3)]
    return [_quantized(call, call.op("Concat", *parts, axis=call.attrs["axis"]), 0, 1, call.node.inputs[2])]


def gemm(call: Call) -> Sequence[gs.Tensor]:
    """alpha · A B + C, where C counts in steps of alpha and both scales; quantised if a scale is given."""
    c, a_scale, b_scale, attrs = call.given(6), call.node.inputs[1], call.node.inputs[4], call.attrs
    alpha = float(attrs.get("alpha", 1.0))
    step = call.op("Mul", a_scale, b_scale)
    step = step if alpha == 1 else call.op("Mul", step, call.number(alpha, step))
    bias = None if c is None else call.op("Mul", call.op("Cast", c, to=onnx.TensorProto.FLOAT), step)
    b = _dequantized(call, 3, 4, 5, axis=0 if attrs.get("transB", 0) else 1)
    y = call.op("Gemm", _dequantized(call, 0, 1, 2), b, bias, **attrs)
    return [y if call.given(7) is None else _quantized(call, y, 7, 8, call.node.inputs[0])]


def matmul_to_float(call: Call) -> Sequence[gs.Tensor]:
    """A product of integers, scaled, and a bias."""
    a, b, a_scale, b_scale = call.node.inputs[:4]
    return [scaled_product(call, (a, a_scale, call.given(4)), (b, b_scale, call.given(5)), call.given(6))]


def dynamic_matmul(call: Call) -> Sequence[gs.Tensor]:
    """The same of data that are quantised by their range."""
    x, b, b_scale = call.node.inputs[:3]
    a, a_scale, a_zero = call.several("DynamicQuantizeLinear", x, outputs=3)
    return [scaled_product(call, (a, a_scale, a_zero), (b, b_scale, call.given(3)), call.given(4))]


#: numbers, their scale and their zero point
Quantized = tuple[gs.Tensor, gs.Tensor, gs.Tensor | None]


def scaled_product(call: Call, a: Quantized, b: Quantized, bias: gs.Tensor | None) -> gs.Tensor:
    """(a - zero)(b - zero) in single precision, times both scales, plus a bias."""
    whole = call.op("MatMulInteger", a[0], b[0], a[2], b[2])
    y = call.op("Mul", call.op("Cast", whole, to=onnx.TensorProto.FLOAT), call.op("Mul", a[1], b[1]))
    return y if bias is None else call.op("Add", y, bias)


def _dequantized(call: Call, index: int, scale: int, zero: int, axis: int | None = None) -> gs.Tensor:
    """Input `index`, with a scale for all, or for each slice along the axis."""
    tensor, steps = call.node.inputs[index], call.node.inputs[scale]
    attrs = {"axis": axis} if axis is not None and shape_of(steps) not in ((), (1,)) else {}
    return call.op("DequantizeLinear", tensor, steps, call.given(zero), **attrs)


def _quantized(call: Call, y: gs.Tensor, scale: int, zero: int, like: gs.Tensor) -> gs.Tensor:
    zeros = call.given(zero)
    return call.op("QuantizeLinear", y, call.node.inputs[scale], call.number(0, like) if zeros is None else zeros)
