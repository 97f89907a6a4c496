"""Outlines of models: all but the weights, which shape inference does not read."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import onnx
from google.protobuf.message import Message

from passes.graph.tensors import STANDARD_DOMAINS
from passes.model import inputs_with_defaults

#: elements: larger initializers and constants are weights, and no shapes, axes or indices, which inference reads
SHAPE_DATA = 1024


def outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model in which weights are inputs, and so declared but not stored: small whatever their number."""
    constants = large_constants(model.graph)
    light = without_initializers(model, constants)
    light.ir_version = max(model.ir_version, 4)  # before, initializers had to be inputs
    inputs = light.graph.input
    fixed = {tensor.name for tensor in model.graph.initializer} - inputs_with_defaults.overridable(model)
    given = [value for value in inputs if value.name not in fixed]
    del inputs[:]
    inputs.extend(given)
    weights = [(node.output[0], node.attribute[0].t) for node in constants]
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SHAPE_DATA and tensor.data_location != onnx.TensorProto.EXTERNAL:
            light.graph.initializer.add().CopyFrom(tensor)
        elif all(value.name != tensor.name for value in given):
            weights.append((tensor.name, tensor))
    inputs.extend(onnx.helper.make_tensor_value_info(name, t.data_type, t.dims) for name, t in weights)
    return light


def large_constants(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The Constant nodes of a graph that hold weights."""
    return [
        node
        for node in graph.node
        if node.op_type == "Constant"
        and node.domain in STANDARD_DOMAINS
        and len(node.attribute) == 1
        and node.attribute[0].name == "value"
        and math.prod(node.attribute[0].t.dims) > SHAPE_DATA
    ]


def without_initializers(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """A copy of the model in which the graph has no initializers, and none of these nodes."""
    bare, left_out = described_as(model), {node.output[0] for node in nodes}
    copy_fields(model.graph, bare.graph, ("initializer", "node") if left_out else ("initializer",))
    if left_out:
        bare.graph.node.extend(node for node in model.graph.node if left_out.isdisjoint(node.output))
    return bare


def described_as(source: onnx.ModelProto) -> onnx.ModelProto:
    """A model without a graph, and with all else that the source says."""
    model = onnx.ModelProto()
    copy_fields(source, model, ("graph",))
    return model


def copy_fields(source: Message, copy: Message, left_out: Collection[str]) -> None:
    """Copy the fields of a message, but for those of these names, into another."""
    for field, value in source.ListFields():
        if field.name in left_out:
            continue
        if field.is_repeated or field.message_type is not None:
            getattr(copy, field.name).MergeFrom(value)
        else:
            setattr(copy, field.name, value)
