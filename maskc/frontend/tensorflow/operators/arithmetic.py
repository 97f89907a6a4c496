"""Conversions of elementwise operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from maskc.frontend.tensorflow.operators.registry import cast, column, constant, converts, elementwise, make, replace
from maskc.frontend.tensorflow.tf2onnx_internals import numpy_type


@converts("Erfc")
def erfc(graph: Any, node: Any) -> None:
    """`erfc(x) = 1 − erf(x)`; of a negated operand, as gelu has it, `erfc(−z·c) = 1 + erf(z·c)`.

    The second is the form of gelu that ONNX Runtime knows as one operator.
    """
    x = node.input[0]
    one = constant(graph, 1, graph.get_dtype(x))
    product = node.inputs[0]
    negated = [i for i, factor in enumerate(product.inputs) if factor.type == "Neg"] if product.type == "Mul" else []
    if not negated:
        erf = elementwise(graph, "Erf", x)
        replace(graph, node, make(graph, "Sub", [one, erf], graph.get_shape(x), graph.get_dtype(x)))
        return
    factors = list(product.input)
    factors[negated[0]] = product.inputs[negated[0]].input[0]
    z = make(graph, "Mul", factors, graph.get_shape(x), graph.get_dtype(x))
    replace(graph, node, elementwise(graph, "Add", elementwise(graph, "Erf", z), one))


@converts("Expm1")
def expm1(graph: Any, node: Any) -> None:
    """`exp(x) − 1 = tanh(x/2) · (exp(x) + 1)`, which keeps its digits where x is small."""
    x = node.input[0]
    half = elementwise(graph, "Mul", x, constant(graph, 0.5, graph.get_dtype(x)))
    more = elementwise(graph, "Add", elementwise(graph, "Exp", x), constant(graph, 1, graph.get_dtype(x)))
    replace(graph, node, elementwise(graph, "Mul", elementwise(graph, "Tanh", half), more))


@converts("Log1p")
def log1p(graph: Any, node: Any) -> None:
    """`log(1 + x) = x · log(u) / (u − 1)` with u = 1 + x as it is rounded, and x where u is 1.

    D. Goldberg, What every computer scientist should know about floating-point arithmetic, theorem 4.
    """
    x = node.input[0]
    one = constant(graph, 1, graph.get_dtype(x))
    u = elementwise(graph, "Add", x, one)
    tiny = make(graph, "Equal", [u, one], graph.get_shape(x), TensorProto.BOOL)
    difference = elementwise(graph, "Sub", u, one)
    safe = make(graph, "Where", [tiny, one, difference], graph.get_shape(x), graph.get_dtype(x))
    log = elementwise(graph, "Log", u)
    near = elementwise(graph, "Mul", x, elementwise(graph, "Div", log, safe))
    large = make(graph, "Greater", [x, one], graph.get_shape(x), TensorProto.BOOL)  # infinity among them
    rounded = make(graph, "Where", [large, log, near], graph.get_shape(x), graph.get_dtype(x))
    replace(graph, node, make(graph, "Where", [tiny, x, rounded], graph.get_shape(x), graph.get_dtype(x)))


@converts("Xlogy", "Xdivy", "MulNoNan")
def zero_wins(graph: Any, node: Any) -> None:
    """`x · log(y)`, `x / y` and `x · y`, which are 0 where the factor (of MulNoNan the second) is 0."""
    x, y = node.input
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    factor = y if node.type == "MulNoNan" else x
    zero = constant(graph, 0, graph.get_dtype(x))
    other = elementwise(graph, "Log", y) if node.type == "Xlogy" else y
    product = make(graph, "Div" if node.type == "Xdivy" else "Mul", [x, other], shape, dtype)
    silent = make(graph, "Equal", [factor, zero], graph.get_shape(factor), TensorProto.BOOL)
    replace(graph, node, make(graph, "Where", [silent, zero, product], shape, dtype))


@converts("Inv")
def inverse(graph: Any, node: Any) -> None:
    """The reciprocal."""
    replace(graph, node, elementwise(graph, "Reciprocal", node.input[0]))


@converts("Bucketize")
def bucketize(graph: Any, node: Any) -> None:
    """The number of boundaries that are not above x; for NaN, all of them, as in TensorFlow."""
    x = node.input[0]
    boundaries = np.asarray(node.get_attr_value("boundaries"), np.float32)
    shape, dtype = graph.get_shape(x), graph.get_dtype(x)
    wide = None if shape is None else [*shape, len(boundaries)]
    if dtype not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        x = cast(graph, x, TensorProto.FLOAT)
    below = make(
        graph, "Less", [column(graph, x), constant(graph, boundaries, graph.get_dtype(x))], wide, TensorProto.BOOL
    )
    reached = make(graph, "Not", [below], wide, TensorProto.BOOL)
    counted = cast(graph, reached, TensorProto.INT32)
    total = make(graph, "ReduceSum", [counted, constant(graph, [-1])], shape, TensorProto.INT32, keepdims=0)
    replace(graph, node, total)


@converts("Bitcast", "BitwiseAnd")
def sign_bit(graph: Any, node: Any) -> None:
    """The sign bit of floating-point numbers, which Keras asks for in argmax: ONNX has no other view of bits.

    It is set in what is below 0, and in −0, whose reciprocal is.
    """
    readers = [node] if node.type == "BitwiseAnd" else graph.find_output_consumers(node.output[0])
    if not all(reader.type == "BitwiseAnd" and _asks_for_sign(reader) for reader in readers):
        raise ValueError(f"{node.name} ({node.type}) works on single bits")
    if node.type == "Bitcast":
        return  # it is removed with what reads it
    x = node.inputs[0].input[0]
    shape, dtype = graph.get_shape(x), graph.get_dtype(x)
    zero = constant(graph, 0, dtype)
    signs = [make(graph, "Less", [y, zero], shape, TensorProto.BOOL) for y in (x, elementwise(graph, "Reciprocal", x))]
    negative = make(graph, "Or", signs, shape, TensorProto.BOOL)
    whole = graph.get_dtype(node.output[0])
    replace(graph, node, make(graph, "Where", [negative, node.input[1], constant(graph, 0, whole)], shape, whole))


def _asks_for_sign(node: Any) -> bool:
    """Whether a BitwiseAnd leaves only the first bit of floating-point numbers."""
    cast, mask = node.inputs
    if cast.type != "Bitcast" or not mask.is_const():
        return False
    value = np.asarray(mask.get_tensor_value(as_list=False))
    source = np.dtype(numpy_type(node.graph.get_dtype(cast.input[0])))
    whole = value.dtype.kind == "i" and source.kind == "f" and source.itemsize == value.itemsize
    return whole and value.size == 1 and int(value.item()) == np.iinfo(value.dtype).min
