"""Fix inputs of a model to given values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from passes.graph.tensors import Array


def bind(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model in which these graph inputs are initializers with these values.

    Raises KeyError if a name is not that of a graph input.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    inputs = {v.name: v for v in bound.graph.input}
    for name, value in values.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
        bound.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        bound.graph.input.remove(inputs[name])
    return bound
