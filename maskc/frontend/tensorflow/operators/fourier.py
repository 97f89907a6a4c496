"""Conversions of real Fourier transforms, without complex numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskc.frontend.tensorflow.operators.registry import become, constant, converts, make, replace
from maskc.frontend.tensorflow.tf2onnx_internals import convert_as_tf2onnx, fresh_name

# What tells a transform that was converted here: its last axis holds the real parts and then the imaginary parts.
_MARK = "maskc_rfft"


@converts("RFFT")
def transform(graph: Any, node: Any) -> None:
    """One matrix product for the real and the imaginary parts, where nothing else is asked of the result."""
    input_shape = graph.get_shape(node.input[0])
    size = -1 if input_shape is None else input_shape[-1]
    readers = {reader.type for reader in graph.find_output_consumers(node.output[0])}
    if size < 0 or not node.inputs[1].is_const() or readers - set(_PARTS) or node.output[0] in graph.outputs:
        raise ValueError(f"{node.name} (RFFT) has a size that is not fixed or a result that is not a real number")
    length = int(node.inputs[1].get_tensor_value(as_list=False).reshape(-1)[0])
    # A shorter signal is filled up with zeros, a longer one cut off.
    angles = np.outer(np.arange(min(size, length)), np.arange(length // 2 + 1)) * (2 * np.pi / length)
    x, dtype = node.input[0], graph.get_dtype(node.input[0])
    if size > length:
        bounds = (constant(graph, [number]) for number in (0, length, -1))
        x = make(graph, "Slice", [x, *bounds], [*input_shape[:-1], length], dtype)
    matrix = constant(graph, np.concatenate([np.cos(angles), -np.sin(angles)], axis=1), dtype)
    shape = [*input_shape[:-1], 2 * (length // 2 + 1)]
    become(graph, node, "MatMul", [x, matrix], shape, dtype, fresh_name(f"{node.name}/{_MARK}"))


_PARTS = ("Real", "Imag", "ComplexAbs")


@converts(*_PARTS)
def part(graph: Any, node: Any) -> None:
    """One half of a transform, or the root of the sum of squares of both."""
    if _MARK not in node.inputs[0].name:
        if node.type != "ComplexAbs":
            raise ValueError(f"{node.name} ({node.type}) is asked of complex numbers")
        convert_as_tf2onnx(graph, node)
        return
    pair = node.input[0]
    shape, dtype = graph.get_shape(pair), graph.get_dtype(pair)
    half = [*shape[:-1], shape[-1] // 2]
    real, imaginary = graph.make_node(
        "Split", [pair], output_count=2, attr={"axis": -1}, shapes=[half, half], dtypes=[dtype, dtype]
    ).output
    if node.type == "ComplexAbs":
        squares = [make(graph, "Mul", [value, value], half, dtype) for value in (real, imaginary)]
        replace(graph, node, make(graph, "Sqrt", [make(graph, "Add", squares, half, dtype)], half, dtype))
    else:
        replace(graph, node, real if node.type == "Real" else imaginary)
