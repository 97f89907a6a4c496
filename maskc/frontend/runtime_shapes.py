"""Shapes of ONNX Runtime's own operators, inferred by a session, as onnx does not know them."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.helper import make_tensor_value_info

from maskc.errors import UnavailableError
from maskc.frontend.graph_queries import copied
from maskc.frontend.import_onnxruntime import FATAL, import_onnxruntime
from passes.model.declarations import dims_of, symbols, written_by_unknown
from passes.model.outline import outline


def noted(model: ModelProto) -> ModelProto:
    """The model with a note on the shape of each tensor that onnx cannot infer and ONNX Runtime can.

    Where ONNX Runtime tells no shape, as of a user's own operators, notes stay as they are. The argument is left
    untouched, and returned where there is nothing to note.
    """
    wanted = written_by_unknown(model.graph)
    found = _inferred(model, wanted) if wanted else []
    if not found:
        return model
    before = {value.name: value for value in model.graph.value_info}
    new = {value.name: value for value in found if dims_of(value) is not None or value.name not in before}
    result = copied(model)
    del result.graph.value_info[:]
    result.graph.value_info.extend((before | new).values())
    return result


def _inferred(model: ModelProto, wanted: set[str]) -> list[ValueInfoProto]:
    """Types of these tensors in a session that has them as outputs; none where no session can be made."""
    try:
        ort = import_onnxruntime()
    except UnavailableError:  # which is said where something is to be run
        return []
    light = outline(model)
    notes = [value for value in light.graph.value_info if value.name not in wanted]
    del light.graph.value_info[:]
    light.graph.value_info.extend(notes)
    outputs = [ValueInfoProto(name=name) for node in light.graph.node for name in node.output if name in wanted]
    del light.graph.output[:]
    light.graph.output.extend(outputs)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    cpu = ["CPUExecutionProvider"]
    try:  # where it falls back by itself, it prints
        session = ort.InferenceSession(light.SerializeToString(), options, providers=cpu, enable_fallback=0)
    except Exception:  # an operator that it does not know either, or that wants its weights
        return []
    names = symbols(model)
    return [_value(output, names) for output in session.get_outputs() if output.type.startswith("tensor(")]


def _value(output: Any, names: Set[str]) -> ValueInfoProto:
    """The type of an output of a session, without names of sizes that the model does not have."""
    element = TensorProto.DataType.Value(output.type[len("tensor(") : -1].upper())
    # no sizes are what it gives for a number, and where it does not know the rank
    dims = [d if isinstance(d, int) or d in names else None for d in output.shape] or None
    return make_tensor_value_info(output.name, element, dims)
