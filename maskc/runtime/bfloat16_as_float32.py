"""bfloat16 widened to float32 in a whole model, for providers without bfloat16 kernels."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, TypeProto

from maskc.frontend.graph_queries import all_graphs, all_nodes, all_tensors, array_of, copied

_TYPES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")


def widened(model: ModelProto) -> ModelProto | None:
    """A copy of the model in which every bfloat16 is a float32; None where there is nothing of the kind.

    Every bfloat16 is a float32, so the weights are the same; only what is computed is rounded less.
    """
    copy = copied(model)
    changed = False
    for tensor in all_tensors(copy):
        if tensor.data_type == TensorProto.BFLOAT16:
            wide = array_of(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
            changed = True
    for node in all_nodes(copy):
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
                changed = True
    for graph in all_graphs(copy.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            changed = widen_type(value.type, (TensorProto.BFLOAT16,), TensorProto.FLOAT) or changed
    return copy if changed else None


def widen_type(kind: TypeProto, narrow: Collection[int], wide: int) -> bool:
    """Make a type wide whose elements are narrow, also inside sequences and optionals; whether it was."""
    if kind.HasField("sequence_type"):
        return widen_type(kind.sequence_type.elem_type, narrow, wide)
    if kind.HasField("optional_type"):
        return widen_type(kind.optional_type.elem_type, narrow, wide)
    if not kind.HasField("tensor_type") or kind.tensor_type.elem_type not in narrow:
        return False
    kind.tensor_type.elem_type = wide
    return True
