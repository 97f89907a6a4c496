"""What a graph takes and gives, where the file does not say of what shape that is."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import ModelProto, ValueInfoProto

from maskc.frontend.graphs import type_of, without_weights


def completed(model: ModelProto) -> ModelProto:
    """The model with the inferred type and shape on outputs that have none, as far as they can be inferred.

    Editors of graphs write such outputs and runtimes take them, though the checker does not. The argument is left
    untouched, and returned where there is nothing to do.
    """
    if not _bare(model.graph.output):
        return model
    try:
        inferred = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True)
    except onnx.shape_inference.InferenceError:  # the checker says it better
        return model
    types = {value.name: value.type for value in inferred.graph.output}
    values = (*model.graph.input, *model.graph.value_info)
    symbols = {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim}
    result = ModelProto()
    result.CopyFrom(model)
    for value in _bare(result.graph.output):
        value.type.CopyFrom(types[value.name])
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param not in symbols:  # a name that the inference made up
                dim.ClearField("dim_param")
    return result


def fault(model: ModelProto) -> str | None:
    """What the first input or output lacks that has no shape; None if all have one."""
    given = {tensor.name for tensor in model.graph.initializer}
    for value in _bare(value for value in model.graph.input if value.name not in given):
        return f"the input '{value.name}' has no shape, and must have one, with names for sizes that vary"
    for value in _bare(model.graph.output):
        return f"the output '{value.name}' has no shape, and none can be inferred"
    return None


def _bare(values: Iterable[ValueInfoProto]) -> list[ValueInfoProto]:
    """Those that do not say what they are, or are tensors and do not say how many axes they have."""
    return [
        value
        for value in values
        if value.type.WhichOneof("value") in (None, "tensor_type") and type_of(value).shape is None
    ]
