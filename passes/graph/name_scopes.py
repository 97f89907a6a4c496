"""Scopes of names in nested graphs: tensors renamed so that no two share a name."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.graph.editor import Names
from passes.graph.subgraphs import subgraphs


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
