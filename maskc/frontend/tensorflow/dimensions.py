"""Shapes of a converted model's inputs and outputs: names for the sizes that vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import ModelProto

from maskc.frontend.graphs import all_graphs, tensor_types


def declare_outputs(model: ModelProto, declared: Mapping[str, Any]) -> None:
    """Give outputs the `tf.TensorShape` that the function declares, where tf2onnx lost it: ONNX asks for one."""
    for value in model.graph.output:
        tensor, shape = value.type.tensor_type, declared.get(value.name)
        if not tensor.HasField("shape") and shape is not None and shape.rank is not None:
            tensor.shape.SetInParent()
            for size in shape:
                dim = tensor.shape.dim.add()
                if size is not None:
                    dim.dim_value = size


def name_unknown(model: ModelProto) -> None:
    """Give unknown dimensions names that mean something: `batch` for the first, `input_axis` elsewhere.

    tf2onnx numbers them, inconsistently between tensors, so that equal sizes would look different.
    """
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                dim.dim_param = "batch" if axis == 0 else f"{value.name}_{axis}"
    for graph in all_graphs(model.graph):
        for value in (*graph.value_info, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value") or dim.dim_value < 0:
                    dim.Clear()
    _carry_batch(model)


def _carry_batch(model: ModelProto) -> None:
    """Name the outputs' dimensions where shape inference finds them to be an input's."""
    known = {dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim} - {""}
    types = tensor_types(model)
    for value in model.graph.output:
        shape = types[value.name].shape
        if shape is None or len(shape) != len(value.type.tensor_type.shape.dim):
            continue
        for dim, inferred in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            if not dim.HasField("dim_value") and inferred in known:
                dim.dim_param = str(inferred)
