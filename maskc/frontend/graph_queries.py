"""Traversal of ONNX graphs: nodes, bodies, tensors, their names, types and bytes."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from passes.graph.nested_protos import bodies
from passes.graph.tensors import STANDARD_DOMAINS, element_of
from passes.model.declarations import dims_of
from passes.model.outline import large_constants
from passes.sizes.prepare import tensors_by_name
from passes.weights.streaming import External, stored_bytes

# Bytes of an element of `float_data`.
_FLOAT_BYTES = 4

# Kinds of attributes that hold tensors, or graphs that do.
_WITH_TENSORS = frozenset(
    kind for name, kind in AttributeProto.AttributeType.items() if "TENSOR" in name or "GRAPH" in name
)


HALF_TYPES = frozenset(
    value
    for name, value in TensorProto.DataType.items()
    if name in ("FLOAT16", "BFLOAT16") or name.startswith(("FLOAT8", "FLOAT4"))
)


@dataclass(frozen=True)
class TensorType:
    """Element type (a `TensorProto.DataType`, 0 when unknown) and shape of a tensor.

    A dimension is an int, the name of a symbolic size, or None when nothing is known; `shape` is None when
    not even the rank is known.
    """

    elem_type: int
    shape: tuple[int | str | None, ...] | None


def name_of(node: NodeProto) -> str:
    """The name of a node or, unnamed, that of its first output."""
    return node.name or next(filter(None, node.output), "")


def copied(model: ModelProto) -> ModelProto:
    """A copy of the model, weights included."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def showing(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy of the model with these tensors among its outputs."""
    shown = copied(model)
    have = {value.name for value in shown.graph.output}
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in have)
    return shown


def all_graphs(graph: GraphProto | onnx.FunctionProto) -> Iterator[Any]:
    """The graph (or local function) and every graph nested in it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from all_graphs(body)


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of the model: of the graph, of nested graphs, of local functions."""
    for owner in (model.graph, *model.functions):
        for graph in all_graphs(owner):
            yield from graph.node


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the model: initializers and attributes, dense and sparse, at any depth."""
    for owner in (model.graph, *model.functions):
        yield from _tensors(owner)


def constants(model: ModelProto) -> dict[str, TensorProto]:
    """The tensors that the main graph stores, by the names that nodes read: of initializers and Constant nodes."""
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    held = {node.output[0]: a.t for node in nodes for a in node.attribute if a.HasField("t")}
    return {tensor.name: tensor for tensor in model.graph.initializer} | held


def _tensors(graph: GraphProto | onnx.FunctionProto) -> Iterator[TensorProto]:
    if isinstance(graph, GraphProto):
        yield from graph.initializer
        yield from _parts(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute or ():
            if attribute.type in _WITH_TENSORS:
                yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
                one = attribute.HasField("sparse_tensor")
                yield from _parts([attribute.sparse_tensor] if one else attribute.sparse_tensors)
                for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    yield from _tensors(body)


def _parts(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[TensorProto]:
    for sparse in tensors:
        yield from (sparse.values, sparse.indices)


def defined(graph: GraphProto) -> set[str]:
    """Names of what a graph defines itself: inputs, initializers and outputs of nodes."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return names | {name for node in graph.node for name in node.output if name}


def rename_tensors(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, in the graph and the ones nested in it, in place; no name may then be there twice."""
    for inner in all_graphs(graph):
        for node in inner.node:
            for own in (node.input, node.output):
                own[:] = [names.get(name, name) for name in own]
        for values in (inner.input, inner.output, inner.value_info, inner.initializer):
            for value in values:
                value.name = names.get(value.name, value.name)


def fresh(wanted: str, taken: Container[str]) -> str:
    """`wanted`, with a number after it where that name is taken."""
    names = itertools.chain([wanted], (f"{wanted}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def claimed(wanted: str, taken: set[str]) -> str:
    """The same, which is taken from then on."""
    name = fresh(wanted, taken)
    taken.add(name)
    return name


def unique(names: Sequence[str]) -> list[str]:
    """The names with a number after each repetition."""
    result: list[str] = []
    for name in names:
        result.append(fresh(name, {*result, *names}) if name in result else name)
    return result


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor's data are in a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def has_external(model: ModelProto) -> bool:
    """Whether the model has weights that stay in files, which then are named by absolute paths."""
    return any(map(is_external, all_tensors(model)))


def array_of(tensor: TensorProto) -> NDArray[Any]:
    """The elements of a tensor, which may be in a file."""
    return np.asarray(External(tensor)) if is_external(tensor) else onnx.numpy_helper.to_array(tensor)


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of the tensor's data as it is held in memory, or in an external file."""
    if is_external(tensor) or tensor.HasField("raw_data"):  # which is copied wherever it is asked for
        return stored_bytes(tensor)
    # for the size of a message, protobuf writes it
    return _FLOAT_BYTES * len(tensor.float_data) or int(tensor.ByteSize())


def weight_bytes(model: ModelProto) -> int:
    """Bytes of the data that `outline` leaves out."""
    constants = (node.attribute[0].t for node in large_constants(model.graph))
    return sum(map(tensor_bytes, (*model.graph.initializer, *constants)))


def type_of(value: ValueInfoProto) -> TensorType:
    """Type of a graph input, output or annotated value; not a tensor: element type 0 and no shape."""
    dims = dims_of(value)
    return TensorType(value.type.tensor_type.elem_type, None if dims is None else tuple(dims))


def tensor_types(model: ModelProto) -> dict[str, TensorType]:
    """Types of all tensors of the main graph: inferred, or else as the model states them.

    Tensors that nothing is known about are there with element type 0 and no shape.
    """
    graph = model.graph
    types = {name: TensorType(0, None) for node in graph.node for name in node.output if name}
    types |= {value.name: type_of(value) for value in (*graph.value_info, *graph.output, *graph.input)}
    for name, tensor in tensors_by_name(model).items():
        if name in types and tensor.shape is not None:
            types[name] = TensorType(element_of(tensor.dtype) or types[name].elem_type, tuple(tensor.shape))
    return types | {t.name: TensorType(t.data_type, tuple(t.dims)) for t in graph.initializer}


def custom_operators(model: ModelProto) -> list[str]:
    """Operators outside the ONNX domains, as `domain.name`, sorted; local functions are not counted."""
    kinds = {(node.domain, node.op_type) for node in all_nodes(model)}
    own = {(domain, op) for domain, op in kinds if domain not in STANDARD_DOMAINS and not domain.startswith("ai.onnx.")}
    return sorted(".".join(kind) for kind in own - {(function.domain, function.name) for function in model.functions})


def float_types(model: ModelProto) -> frozenset[int]:
    """The floating-point types that anything in the model is stored or computed in, as far as it says."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    found = {tensor.data_type for tensor in all_tensors(model)} | {type_of(value).elem_type for value in values}
    found.update(a.i for node in all_nodes(model) if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    return frozenset(found & (HALF_TYPES | {TensorProto.FLOAT, TensorProto.DOUBLE}))
