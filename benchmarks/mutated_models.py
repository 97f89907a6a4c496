"""Models and masks as damaged tools, careless people and attackers make them, out of good ones.

Every choice comes from a `random.Random`, as for random networks: the same seed gives the same bytes, and hypothesis
can drive and shrink it. What comes out may be valid, or not even a model.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from maskc.frontend.graph_queries import all_graphs, copied

_SIZES = (0, 1, 2, 3, 5, 7, 16, 64, 255, 1000)
_INTEGERS = (*_SIZES, -1, -2, -7, 2**24, 2**27, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 6.0, 1e-45, 1e-8, 3e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "a", "é\u202e", "\x1b[2J", "../../x", "/dev/null", "a\nb", "x" * 5000, "SAME_UPPER", "%s{}", "\u0000")

# Messages that a mutation looks into for other names, operators and attributes to put in.
_SKIPPED = frozenset({"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "doc_string"})


def mutated(model: ModelProto, rng: Random) -> bytes:
    """The bytes of the model with a few things changed; `model` is left untouched."""
    copy = copied(model)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 4))):
        rng.choice(_WAYS)(copy, rng)
    data = copy.SerializeToString()
    return _torn(data, rng) if rng.random() < 0.08 else data


def mutated_masks(model: ModelProto, rng: Random) -> bytes:
    """The bytes of an `.npz` file of masks for a model, good and bad ones."""
    names = [name for node in model.graph.node for name in node.output if name]
    names += [tensor.name for tensor in model.graph.initializer] + [value.name for value in model.graph.input]
    lengths = sorted({size for tensor in model.graph.initializer for size in tensor.dims if 0 < size < 4096} or {4})
    masks: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(names or ["x"])
        key = name + rng.choice(("", "", "@0", "@1", "@-1", "@9", "@x", "@"))
        count = rng.choice(lengths) if rng.random() < 0.9 else rng.choice((0, 1, 2**20))
        mask = np.asarray(
            [rng.random() < 0.6 for _ in range(min(count, 4096))], rng.choice((np.float32, np.bool_, np.int8))
        )
        masks[key] = mask if rng.random() < 0.9 else rng.choice((mask * 2, mask.reshape(-1, 1), mask[:0]))
    buffer = io.BytesIO()
    np.savez(buffer, **masks)
    return _torn(buffer.getvalue(), rng) if rng.random() < 0.1 else buffer.getvalue()


def _torn(data: bytes, rng: Random) -> bytes:
    """The bytes with some of them cut off, changed or repeated."""
    torn = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(torn) + 1)
        way = rng.randrange(4)
        if way == 0 and torn:
            torn[at % len(torn)] ^= 1 << rng.randrange(8)
        elif way == 1:
            del torn[at : at + rng.choice((1, 4, 100))]
        elif way == 2:
            torn[at:at] = torn[at : at + rng.choice((1, 8, 64))]
        else:
            del torn[at : at + rng.choice((1, 1, len(torn)))]
    return bytes(torn)


# -- any field of any message ------------------------------------------------------------------------


def _messages(message: Message) -> Iterator[Message]:
    """The message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in value if hasattr(value, "append") else (value,):
                yield from _messages(each)


def _change_a_field(model: ModelProto, rng: Random) -> None:
    messages = list(_messages(model))
    message = rng.choice(messages)
    fields = [field for field in message.DESCRIPTOR.fields if field.name not in _SKIPPED or rng.random() < 0.1]
    there = [field for field, _ in message.ListFields() if field in fields]
    field = rng.choice(there) if there and rng.random() < 0.85 else rng.choice(fields)
    if hasattr(getattr(message, field.name), "append"):
        _change_repeated(message, field, messages, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        like = [each for each in messages if each.DESCRIPTOR is field.message_type]
        if rng.random() < 0.5 or not like:
            message.ClearField(field.name)
        else:
            getattr(message, field.name).CopyFrom(_copy(rng.choice(like)))
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), rng))


def _change_repeated(message: Message, field: FieldDescriptor, messages: list[Message], rng: Random) -> None:
    values = getattr(message, field.name)
    way = rng.randrange(6)
    if way == 0 and len(values):
        del values[rng.randrange(len(values))]
    elif way == 1 and rng.random() < 0.3:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        like = [each for each in messages if each.DESCRIPTOR is field.message_type]
        if like and way < 4:
            values.insert(rng.randrange(len(values) + 1), _copy(rng.choice(like)))
        elif len(values) > 1:
            first, second = rng.randrange(len(values)), rng.randrange(len(values))
            kept = list(map(_copy, values))
            kept[first], kept[second] = kept[second], kept[first]
            del values[:]
            values.extend(kept)
    elif way < 4 and len(values):
        at = rng.randrange(len(values))
        values[at] = _scalar(field, values[at], rng)
    else:
        values.insert(rng.randrange(len(values) + 1), _scalar(field, values[0] if len(values) else None, rng))


def _copy(message: Message) -> Message:
    """A message of its own: protobuf's copies of a message into one within it do not end."""
    made: Message = type(message).FromString(message.SerializeToString())
    return made


def _scalar(field: FieldDescriptor, value: Any, rng: Random) -> Any:
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32):
        drawn = (value or 0) + rng.choice((-1, 1)) if rng.random() < 0.3 else rng.choice(_INTEGERS)
        most = 2 ** (63 if kind == FieldDescriptor.CPPTYPE_INT64 else 31)
        return max(-most, min(most - 1, drawn))
    if kind in (FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_UINT32):
        return abs(rng.choice(_INTEGERS)) % 2**32
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([each.number for each in field.enum_type.values])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not value
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice(_TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    drawn = rng.choice(_FLOATS)
    return np.float32(drawn).item() if kind == FieldDescriptor.CPPTYPE_FLOAT else drawn


# -- what a graph is made of -------------------------------------------------------------------------


def _nodes(model: ModelProto) -> list[NodeProto]:
    return [node for graph in all_graphs(model.graph) for node in graph.node]


def _tensors(model: ModelProto) -> list[TensorProto]:
    held = [tensor for graph in all_graphs(model.graph) for tensor in graph.initializer]
    return held + [a.t for node in _nodes(model) for a in node.attribute if a.type == AttributeProto.TENSOR]


def _rewire(model: ModelProto, rng: Random) -> None:
    nodes = [node for node in _nodes(model) if node.input]
    names = [name for node in _nodes(model) for name in node.output] + [t.name for t in model.graph.initializer]
    if nodes:
        node = rng.choice(nodes)
        node.input[rng.randrange(len(node.input))] = rng.choice([*names, ""])


def _other_operator(model: ModelProto, rng: Random) -> None:
    nodes = _nodes(model)
    if nodes:
        node = rng.choice(nodes)
        like = [op for op in _OPERATORS if op and _arity(op) == len(node.input)]
        node.op_type = rng.choice(like if like and rng.random() < 0.8 else _OPERATORS)


def _arity(operator: str) -> int:
    return max(onnx.defs.get_schema(operator).min_input, 1) if onnx.defs.has(operator) else 0


def _other_shape(model: ModelProto, rng: Random) -> None:
    """Another size of a tensor, with data that fit it or do not."""
    tensors = [tensor for tensor in _tensors(model) if tensor.dims]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    dims = list(tensor.dims)
    way = rng.randrange(4)
    if way == 0:
        dims[rng.randrange(len(dims))] = rng.choice(_INTEGERS)
        tensor.dims[:] = dims
        return
    try:
        array = numpy_helper.to_array(tensor)
    except Exception:  # broken by another mutation
        return
    axis = rng.randrange(array.ndim)
    if way == 1:
        array = np.take(array, range(rng.randrange(array.shape[axis] + 1)), axis)
    elif way == 2:
        array = np.concatenate([array, array], axis) if array.size < 2**16 else array
    else:
        array = rng.choice((array.reshape(-1), array[None], array.swapaxes(0, axis)))
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def _other_values(model: ModelProto, rng: Random) -> None:
    """A tensor with slices of zeros, as pruning makes them, or with odd numbers."""
    tensors = _tensors(model)
    if not tensors:
        return
    tensor = rng.choice(tensors)
    try:
        array = numpy_helper.to_array(tensor).copy()
    except Exception:  # broken by another mutation
        return
    if array.size == 0 or array.dtype.kind not in "fiub":
        return
    if array.ndim and rng.random() < 0.6:
        axis = rng.randrange(array.ndim)
        chosen = [channel for channel in range(array.shape[axis]) if rng.random() < 0.5]
        np.moveaxis(array, axis, 0)[chosen] = rng.choice((0, 0, 0, 1, 0.5)) if array.dtype.kind == "f" else 0
    else:
        with np.errstate(all="ignore"):
            odd = rng.choice(_FLOATS if array.dtype.kind == "f" else _SIZES if rng.random() < 0.7 else _INTEGERS)
            array.reshape(-1)[rng.randrange(array.size)] = np.asarray(odd).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _other_type(model: ModelProto, rng: Random) -> None:
    tensors = _tensors(model)
    if tensors and rng.random() < 0.5:
        tensor = rng.choice(tensors)
        try:
            array = numpy_helper.to_array(tensor)
            wanted = rng.choice((np.float16, np.float64, np.float32, np.int64, np.int32, np.int8, np.bool_))
            with np.errstate(all="ignore"):
                tensor.CopyFrom(numpy_helper.from_array(array.astype(wanted), tensor.name))
        except Exception:  # texts, and what another mutation broke
            tensor.data_type = rng.choice(TensorProto.DataType.values())
    elif model.graph.input:
        value = rng.choice(model.graph.input)
        value.type.tensor_type.elem_type = rng.choice(TensorProto.DataType.values())


def _other_declaration(model: ModelProto, rng: Random) -> None:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not values:
        return
    shape = rng.choice(values).type.tensor_type.shape
    way = rng.randrange(4)
    if way == 0 or not shape.dim:
        shape.dim.add().dim_value = rng.choice(_SIZES)
    elif way == 1:
        del shape.dim[rng.randrange(len(shape.dim))]
    elif way == 2:
        shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice(_INTEGERS)
    else:
        shape.dim[rng.randrange(len(shape.dim))].dim_param = rng.choice(("n", "h", "?", "", "x y"))


def _constant_input(model: ModelProto, rng: Random) -> None:
    """An input that becomes a constant, as its shape is declared, or a constant that becomes an input."""
    graph = model.graph
    if graph.initializer and rng.random() < 0.5:
        tensor = rng.choice(graph.initializer)
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        if rng.random() < 0.5:
            graph.initializer.remove(tensor)
    elif graph.input:
        value = rng.choice(graph.input)
        dims = [max(1, min(dim.dim_value or 2, 64)) for dim in value.type.tensor_type.shape.dim]
        if int(np.prod(dims)) < 2**16 and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            values = np.random.default_rng(rng.randrange(2**32)).normal(size=dims).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, value.name))
            graph.input.remove(value)


def _other_version(model: ModelProto, rng: Random) -> None:
    if model.opset_import and rng.random() < 0.8:
        rng.choice(model.opset_import).version = rng.choice((1, 6, 7, 9, 11, 13, 15, 17, 18, 20, 21, 23, 99, -1))
    else:
        model.ir_version = rng.choice((0, 1, 3, 4, 7, 8, 10, 13, 99))


def _drop_or_repeat_a_node(model: ModelProto, rng: Random) -> None:
    graph = rng.choice(list(all_graphs(model.graph)))
    if not graph.node:
        return
    node = rng.choice(graph.node)
    if rng.random() < 0.5:
        graph.node.remove(node)
    else:
        made = NodeProto.FromString(node.SerializeToString())
        if rng.random() < 0.7:
            made.output[:] = [f"{name}_again" for name in made.output]
        graph.node.insert(rng.randrange(len(graph.node) + 1), made)


def _mask(model: ModelProto, rng: Random) -> None:
    """A multiplication by zeros and ones of what a node writes, which its readers read then."""
    graph = model.graph
    nodes = [node for node in graph.node if node.output and node.output[0]]
    if not nodes:
        return
    at = rng.randrange(len(nodes))
    name = nodes[at].output[0]
    lengths = sorted({size for tensor in graph.initializer for size in tensor.dims if 0 < size < 2048} or {4})
    count = rng.choice(lengths)
    shape = rng.choice(([count], [count, 1, 1], [1, count, 1, 1], [1, count]))
    values = np.asarray([float(rng.random() < 0.5) for _ in range(count)], np.float32).reshape(shape)
    for node in graph.node:
        node.input[:] = [f"{name}/masked" if each == name else each for each in node.input]
    graph.initializer.append(numpy_helper.from_array(values, f"{name}/values"))
    place = next(i for i, node in enumerate(graph.node) if node.output and node.output[0] == name)
    graph.node.insert(place + 1, helper.make_node("Mul", [name, f"{name}/values"], [f"{name}/masked"]))


_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""} | {"Fancy", ""})
_WAYS: tuple[Callable[[ModelProto, Random], None], ...] = (
    *(_change_a_field,) * 3,
    *(_other_values,) * 4,
    *(_mask,) * 3,
    *(_rewire, _other_operator, _other_shape, _other_type, _other_declaration),
    *(_constant_input, _other_version, _drop_or_repeat_a_node),
)
