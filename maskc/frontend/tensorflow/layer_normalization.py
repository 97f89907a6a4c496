"""Fusion of decomposed layer normalisations into ONNX's LayerNormalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskc.frontend.tensorflow.operators.registry import become, constant, past_identities


def fold(graph: Any) -> None:
    """Replace the layer normalisations of a converted tf2onnx graph, in place."""
    for node in [node for node in graph.get_nodes() if node.type == "Add"]:
        _layer_normalization(graph, node)
    graph.delete_unused_nodes(graph.outputs)


def _layer_normalization(graph: Any, node: Any) -> None:
    """`x·s + (b − mean·s)` with `s = g / sqrt(var + ε)` as LayerNormalization, where it is over the last axes."""
    parts = _normalized(graph, *node.inputs) or _normalized(graph, *node.inputs[::-1])
    if parts is None:
        return
    x, axes, gain, shift, epsilon = parts
    shape, dtype = graph.get_shape(x), graph.get_dtype(x)
    if shape is None or sorted(axis % len(shape) for axis in axes) != list(range(len(shape) - len(axes), len(shape))):
        return
    normal = shape[len(shape) - len(axes) :]
    if -1 in normal:
        return
    vectors = []
    for value in (gain, shift):
        lead = np.ndim(value) - len(normal)
        if lead > 0 and set(np.shape(value)[:lead]) != {1}:
            return
        value = np.asarray(value).reshape(np.shape(value)[max(lead, 0) :])
        vectors.append(constant(graph, np.broadcast_to(value, normal), dtype))
    target = graph.get_shape(node.output[0])
    become(graph, node, "LayerNormalization", [x, *vectors], target, dtype, axis=-len(normal), epsilon=epsilon)


def _normalized(graph: Any, scaled: Any, shifted: Any) -> tuple[str, list[int], Any, Any, float] | None:
    """x, the axes, gain, shift and epsilon of a sum of `x·s` and `b − mean·s`."""
    product, shift = _with_constant(shifted) if shifted.type == "Add" else (shifted, 0.0)
    if scaled.type != "Mul" or product is None or product.type != "Mul":
        return None
    for x, s in (scaled.input, scaled.input[::-1]):
        if s not in product.input:
            continue
        other = product.inputs[1 - list(product.input).index(s)]
        mean = past_identities(other.inputs[0]) if other.type == "Neg" else None
        scale = _scale(graph.get_node_by_output(s))
        if mean is None or mean.type != "ReduceMean" or scale is None or mean.input[0] != x:
            continue
        epsilon, variance, gain = scale
        if _is_variance(variance, x, mean) and mean.get_attr_value("keepdims", 1):
            return x, _axes(mean), gain, shift, epsilon
    return None


def _with_constant(node: Any) -> tuple[Any, Any]:
    """The computed operand of a sum or product, and the value of the constant one."""
    for computed, fixed in (node.inputs, node.inputs[::-1]):
        if fixed.is_const() and not computed.is_const():
            return computed, fixed.get_tensor_value(as_list=False)
    return None, None


def _scale(node: Any) -> tuple[float, Any, Any] | None:
    """Epsilon, variance and gain of `gain / sqrt(variance + ε)`."""
    gain: Any = 1.0
    if node is not None and node.type == "Mul":
        node, gain = _with_constant(node)
    root = node.inputs[0] if node is not None and node.type == "Reciprocal" else None
    total = root.inputs[0] if root is not None and root.type == "Sqrt" else None
    if total is None or total.type != "Add":
        return None
    variance, epsilon = _with_constant(total)
    return (float(np.ravel(epsilon)[0]), variance, gain) if variance is not None and np.size(epsilon) == 1 else None


def _is_variance(node: Any, x: str, mean: Any) -> bool:
    """Whether a tensor is the mean of `(x − mean)²` over the same axes."""
    node = past_identities(node)
    if node.type != "ReduceMean" or _axes(node) != _axes(mean) or not node.get_attr_value("keepdims", 1):
        return False
    square = node.inputs[0]
    if square.type != "Mul" or square.input[0] != square.input[1] or square.inputs[0].type != "Sub":
        return False
    difference = square.inputs[0]
    return difference.input[0] == x and past_identities(difference.inputs[1]) is mean


def _axes(node: Any) -> list[int]:
    return list(node.get_attr_value("axes") or [])
