"""Descriptions of the parts of a model: texts, metadata, annotations and device configurations."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from passes.graph.nested_protos import nested
from passes.graph.subgraphs import with_bodies

_OF_NODES = ("doc_string", "metadata_props", "device_configurations")


def of_node(node: NodeProto) -> NodeProto | None:
    """What is said of a node, and nothing else; None if nothing is."""
    if not (node.doc_string or node.metadata_props or node.device_configurations):
        return None
    said = NodeProto()
    _add(said, node)
    return said


def of_values(model: ModelProto) -> frozenset[str]:
    """Inner tensors of which something is said that is no shape."""
    return frozenset(v.name for v in model.graph.value_info if v.doc_string or v.metadata_props)


def name_back(graph: gs.Graph, constants: Collection[gs.Constant], source: ModelProto) -> None:
    """Give what was made of an initializer of the source its name again, where it is not there any more."""
    given = {t.name for t in _stored(source)}
    scopes = list(with_bodies(graph))
    taken = {t.name for scope in scopes for n in scope.nodes for t in (*n.inputs, *n.outputs)}
    taken |= {t.name for scope in scopes for t in (*scope.inputs, *scope.outputs)}
    for tensor in constants:
        name = tensor.name
        while name not in given and (shorter := re.sub(r"_\d+$", "", name)) != name:
            name = shorter
        if name in given and name not in taken:
            tensor.name = name
            taken.add(name)


def restore(model: ModelProto, source: ModelProto) -> None:
    """Say of the parts of a compiled model what its source says of them.

    A node has what it had in the source by now; to that comes what was said of the node that wrote the same tensor.
    """
    model.graph.metadata_props.extend(source.graph.metadata_props)
    writers = {
        name: node for node in nested(source.graph.node) if of_node(node) is not None for name in node.output if name
    }
    for node in nested(model.graph.node) if writers else ():
        for name in node.output:
            if name in writers:
                _add(node, writers[name])
    tensors = {tensor.name: tensor for tensor in _stored(source)}
    values = {value.name: value for value in source.graph.value_info}
    for part in (*model.graph.initializer, *model.graph.value_info):
        told = tensors.get(part.name) if isinstance(part, TensorProto) else values.get(part.name)
        if told is not None:
            _add(part, told)
    _annotate(model.graph, source.graph)


def _annotate(graph: GraphProto, source: GraphProto) -> None:
    """Annotate the tensors that are left, with what the source stores for that alone.

    One value for each slice does not fit a tensor of which some are gone.
    """
    if not source.quantization_annotation:
        return
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    named = {name for n in nested(graph.node) for name in (*n.input, *n.output)} | {v.name for v in graph.input}
    stored = {t.name: t for t in source.initializer}
    for annotation in source.quantization_annotation:
        name, parameters = annotation.tensor_name, [entry.value for entry in annotation.quant_parameter_tensor_names]
        kept = name not in shapes or shapes[name] == list(stored[name].dims)
        single = all(p not in stored or p in named or not any(d != 1 for d in stored[p].dims) for p in parameters)
        if name not in named or not (kept or single) or not all(p in named or p in stored for p in parameters):
            continue
        graph.quantization_annotation.append(annotation)
        for parameter in parameters:
            if parameter not in shapes and parameter in stored and parameter not in named:
                graph.initializer.append(stored[parameter])
                shapes[parameter] = list(stored[parameter].dims)


def _stored(model: ModelProto) -> Iterator[TensorProto]:
    """The initializers of the graph, and what its Constant nodes hold, by the name of their output."""
    yield from model.graph.initializer
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            yield TensorProto(name=node.output[0], doc_string=node.doc_string, metadata_props=node.metadata_props)


def _add(part: NodeProto | TensorProto | ValueInfoProto, other: NodeProto | TensorProto | ValueInfoProto) -> None:
    """Say of the part what is said of the other one, too, where it is not said already."""
    if other.doc_string not in part.doc_string:
        part.doc_string = "\n".join(filter(None, (part.doc_string, other.doc_string)))
    keys = {entry.key for entry in part.metadata_props}
    part.metadata_props.extend(entry for entry in other.metadata_props if entry.key not in keys)
    if isinstance(part, NodeProto) and isinstance(other, NodeProto) and not part.device_configurations:
        part.device_configurations.extend(other.device_configurations)
