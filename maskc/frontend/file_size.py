"""Size of a model's file, counted without writing large weights, as protobuf does to measure a message."""

from __future__ import annotations

from google.protobuf.message import Message
from onnx import ModelProto, NodeProto, TensorProto

from maskc.frontend.graph_queries import all_tensors, is_external, tensor_bytes
from passes.model.outline import copy_fields, large_constants, without_initializers
from passes.weights.streaming import stored_bytes

# Protobuf refuses even to measure a message of 2 GB or more; the graph beside the weights is allowed for.
_MESSAGE_LIMIT = 2**31 - 64 * 2**20

# Bytes of weights up to which a model is written to be measured; with more, only what is beside them is.
SOON_WRITTEN = 8 * 2**20


def model_bytes(model: ModelProto) -> int:
    """Bytes of the model's files; of one too large for a single file, those of its weights."""
    tensors = list(all_tensors(model))
    external = [tensor for tensor in tensors if is_external(tensor)]
    if external:
        return int(model.ByteSize()) + sum(map(tensor_bytes, external))
    weights = sum(map(tensor_bytes, tensors))
    if weights >= _MESSAGE_LIMIT:
        return weights
    if weights < SOON_WRITTEN:
        return int(model.ByteSize())
    constants = large_constants(model.graph)
    bare = without_initializers(model, constants)
    beside = int(bare.graph.ByteSize())
    graph = beside + sum(_field(_tensor_message_bytes(tensor)) for tensor in model.graph.initializer)
    graph += sum(map(_field, map(_constant_bytes, constants)))
    return int(bare.ByteSize()) - _field(beside) + _field(graph)


def _tensor_message_bytes(tensor: TensorProto) -> int:
    """Bytes of the tensor as a message; for those, protobuf writes it all, which takes long where it is large."""
    if not tensor.HasField("raw_data"):
        return int(tensor.ByteSize())
    return _bytes_without(tensor, "raw_data") + _field(stored_bytes(tensor))


def _constant_bytes(node: NodeProto) -> int:
    """The same of a Constant node."""
    attribute = node.attribute[0]
    value = _bytes_without(attribute, "t") + _field(_tensor_message_bytes(attribute.t))
    return _bytes_without(node, "attribute") + _field(value)


def _bytes_without(message: Message, left_out: str) -> int:
    """Bytes of a message without one of its fields."""
    rest = type(message)()
    copy_fields(message, rest, (left_out,))
    return int(rest.ByteSize())


def _field(size: int) -> int:
    """Bytes of a field that holds so many, with its number and their length."""
    return 1 + max(1, -(-size.bit_length() // 7)) + size
