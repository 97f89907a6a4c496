"""float32 inputs and outputs for models whose own types numpy does not have."""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorProto

from maskc.frontend.graph_queries import HALF_TYPES, copied, type_of

_FEW_BITS = {value for name, value in TensorProto.DataType.items() if name.endswith(("INT2", "INT4"))}
_FOREIGN_TO_NUMPY = HALF_TYPES - {TensorProto.FLOAT16} | _FEW_BITS


def in_numpy_types(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """The model with float32 at its ends where numpy cannot hold the type (bfloat16, 8-bit floats, int4).

    Every such value is also a float32, so nothing is rounded that was not rounded before. Returns the names
    under which the changed inputs are now fed; outputs keep their order.
    """
    ends = (*model.graph.input, *model.graph.output)
    if not any(type_of(value).elem_type in _FOREIGN_TO_NUMPY for value in ends):
        return model, {}
    model = copied(model)
    fed: dict[str, str] = {}
    casts = []
    for value in model.graph.input:
        kind = type_of(value).elem_type
        if kind in _FOREIGN_TO_NUMPY:
            fed[value.name] = f"{value.name}/as_float32"
            casts.append(onnx.helper.make_node("Cast", [fed[value.name]], [value.name], to=kind))
            value.name = fed[value.name]
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in model.graph.output:
        if type_of(value).elem_type in _FOREIGN_TO_NUMPY:
            wide = f"{value.name}/as_float32"
            model.graph.node.append(onnx.helper.make_node("Cast", [value.name], [wide], to=TensorProto.FLOAT))
            value.name = wide
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    return model, fed
