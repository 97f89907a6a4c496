"""Local functions of a model, in the places where they are called."""

from __future__ import annotations

import onnx
from onnx.inliner import inline_local_functions


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without local functions: itself, if it has none. Where they cannot be inlined, calls are left alone."""
    if not model.functions:
        return model
    try:
        inside: onnx.ModelProto = inline_local_functions(model, convert_version=True)
    except Exception:  # functions of an opset that cannot be converted to the model's
        return model
    return inside
