"""Scopes of names in nested graphs: names read from around a graph, and tensors renamed so that no two share a name."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs

from passes.graph.editor import Names
from passes.graph.subgraphs import subgraphs


def captured_names(node: onnx.NodeProto) -> set[str]:
    """Names that the bodies of the node read and do not define."""
    return {name for each in node.attribute if each.type == onnx.AttributeProto.GRAPH for name in _free_names(each.g)}


def _free_names(graph: onnx.GraphProto) -> set[str]:
    read = {value.name for value in graph.output}
    defined = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    defined |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        read |= {*node.input} | captured_names(node)
        defined |= {*node.output}
    return read - defined


def distinguish(graph: gs.Graph) -> None:
    """Rename what got a name inside that something around it has."""
    names = Names(graph)
    constants: dict[str, int] = {}

    def visit(scope: gs.Graph, around: Mapping[str, int]) -> None:
        own = dict(around)
        read = [t for node in scope.nodes for t in node.inputs]
        for tensor in [*scope.inputs, *(t for node in scope.nodes for t in node.outputs), *read, *scope.outputs]:
            if tensor.is_empty():
                continue
            if any(taken.get(tensor.name, id(tensor)) != id(tensor) for taken in (own, constants)):
                tensor.name = names.fresh(tensor.name)
            own[tensor.name] = id(tensor)
            if isinstance(tensor, gs.Constant):  # where it will be stored is not decided yet
                constants[tensor.name] = id(tensor)
        for node in scope.nodes:
            for body in subgraphs(node):
                visit(body, own)

    visit(graph, {})
