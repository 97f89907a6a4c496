"""Weights as a model stores them, read and written: those that are quantised keep their steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from maskc.frontend.graph_queries import array_of

_INTEGER = {"MatMulInteger": -1, "ConvInteger": 0}  # the axis of a weight that has a zero point for each slice


@dataclass(frozen=True)
class _Steps:
    """What a weight is made of: `scale` times what is left of a tensor, the name of which this has, without `zero`."""

    tensor: str
    scale: NDArray[Any]
    zero: NDArray[Any]


def stored(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    """The constants of the main graph by name, and what DequantizeLinear makes of them.

    Weights that products of integers read are without their zero point, in floating point.
    """
    tensors = _tensors(model)
    found = {name: array_of(tensor) for name, tensor in tensors.items()}
    for name, steps in _quantised(model, tensors).items():
        found[name] = (found[steps.tensor].astype(steps.scale.dtype) - steps.zero) * steps.scale
    return found


def with_weights(model: ModelProto, weights: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The model, in which those of the weights that it has, by the names of `stored`, have other values, in place."""
    tensors = _tensors(model)
    for name, value in written(model, weights).items():
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensors[name].name))
    return model


def written(model: ModelProto, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the model stores where these are its weights, by the names of constants: the nearest steps."""
    tensors = _tensors(model)
    quantised = _quantised(model, tensors)
    found = {}
    for name, value in weights.items():
        steps = quantised.get(name)
        tensor = name if steps is None else steps.tensor
        if tensor not in tensors:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(tensors[tensor].data_type)
        if steps is not None:
            limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
            value = np.clip(np.rint(value / steps.scale.astype(np.float64)) + steps.zero, limits.min, limits.max)
        found[tensor] = value.astype(dtype)
    return found


def _tensors(model: ModelProto) -> dict[str, TensorProto]:
    found = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _quantised(model: ModelProto, tensors: Mapping[str, TensorProto]) -> dict[str, _Steps]:
    """The weights of integers that nothing else reads, by the names that `stored` has for them."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    return {
        name: steps
        for node in model.graph.node
        if node.op_type in {"DequantizeLinear", *_INTEGER}
        for name, steps in _of(node, tensors)
        if uses[steps.tensor] == 1
    }


def _of(node: NodeProto, tensors: Mapping[str, TensorProto]) -> Iterator[tuple[str, _Steps]]:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in _INTEGER:
        name, (weight, *zero), scale = node.input[1], node.input[1:4:2], np.ones((), np.float32)
        axis, block = _INTEGER[node.op_type], 0
    else:
        name, (weight, by, *zero) = node.output[0], node.input
        if by not in tensors:
            return
        scale, axis, block = array_of(tensors[by]), int(given.get("axis", 1)), int(given.get("block_size", 0))
    if any(name and name not in tensors for name in (weight, *zero)):
        return
    shape, dtype = tensors[weight].dims, helper.tensor_dtype_to_np_dtype(tensors[weight].data_type)
    if dtype.kind not in "iu" and "int" not in dtype.name:
        return
    from_zero = array_of(tensors[zero[0]]).astype(scale.dtype) if zero and zero[0] else np.zeros_like(scale)

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        """The values as they go with the elements of the weight."""
        if block:
            return np.repeat(values, block, axis).take(range(shape[axis]), axis)
        return (
            values.reshape([-1 if a == axis % len(shape) else 1 for a in range(len(shape))])
            if values.size > 1
            else values
        )

    yield name, _Steps(weight, spread(np.asarray(scale)), spread(np.asarray(from_zero)))
