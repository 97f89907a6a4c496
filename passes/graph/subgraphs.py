"""Tensors that the subgraphs of control flow read from the graph around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs

from passes.graph.tensors import Dim


class Body(gs.Graph):
    """A graph that is an attribute of a node of control flow."""

    #: shapes of its outputs as the model declares them, which computed ones may not be
    declared: list[list[Dim] | None]
    #: what the model says of it
    metadata: list[onnx.StringStringEntryProto]


def captured(node: gs.Node) -> list[gs.Tensor]:
    """Tensors of the outer graph that the subgraphs of this node name."""
    found: dict[str, gs.Tensor] = {}
    for graph in subgraphs(node):
        inside = {t.name for n in graph.nodes for t in n.outputs} | {t.name for t in graph.inputs}
        for tensor in [*graph.outputs, *(t for n in graph.nodes for t in [*n.inputs, *captured(n)])]:
            if tensor.name not in inside and not tensor.is_empty():
                found.setdefault(tensor.name, tensor)
    return list(found.values())


def replace_captured(node: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let the subgraphs of the node read `new` where they read `old`, a tensor of the outer graph."""
    for graph in subgraphs(node):
        replace_inside(graph, old, new)


def replace_inside(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let a subgraph, and those in it, read `new` where they read `old`, a tensor of the outer graph."""
    graph.outputs = [new if t is old else t for t in graph.outputs]
    for node in graph.nodes:
        if any(t is old for t in node.inputs):
            node.inputs = [new if t is old else t for t in node.inputs]
        replace_captured(node, old, new)


def bodies(graph: gs.Graph) -> Iterator[gs.Graph]:
    """All graphs among the attributes of the graph's nodes, and of theirs."""
    for node in graph.nodes:
        for body in subgraphs(node):
            yield from with_bodies(body)


def with_bodies(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph, and all graphs among the attributes of its nodes."""
    yield graph
    yield from bodies(graph)


def seen_outside(graph: gs.Graph) -> set[str]:
    """Names of the tensors that others than the graph's own nodes see: its outputs, and what subgraphs read."""
    return {t.name for t in graph.outputs} | {t.name for n in graph.nodes for t in captured(n)}


def shared_constants(graph: gs.Graph) -> list[gs.Constant]:
    """Initializers that more than one of the graphs read, of which the subgraphs of control flow are some."""
    readers: dict[int, int] = {}
    found: dict[int, gs.Constant] = {}
    for scope in with_bodies(graph):
        for tensor in {id(t): t for t in [*(t for n in scope.nodes for t in n.inputs), *scope.outputs]}.values():
            if isinstance(tensor, gs.Constant):
                readers[id(tensor)] = readers.get(id(tensor), 0) + 1
                found[id(tensor)] = tensor
    return [tensor for key, tensor in found.items() if readers[key] > 1]


def mark_shared(graph: gs.Graph) -> None:
    """Note of initializers that more than one of the graphs read that it is so."""
    for tensor in shared_constants(graph):
        vars(tensor)["shared"] = True


def mark_as(tensor: gs.Constant, origin: gs.Constant) -> None:
    """Note of an initializer what is noted of the one that it was cut from."""
    vars(tensor)["shared"] = vars(origin).get("shared", False)


def is_read_by_others(tensor: gs.Constant) -> bool:
    """Whether more than one node reads an initializer, or several graphs read what it was cut from."""
    return len(tensor.outputs) > 1 or bool(vars(tensor).get("shared"))


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """The graphs among the attributes of the node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
