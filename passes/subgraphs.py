"""Tensors that the subgraphs of control flow read from the graph around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs


def captured(node: gs.Node) -> list[gs.Tensor]:
    """Tensors of the outer graph that the subgraphs of this node name."""
    found: dict[str, gs.Tensor] = {}
    for graph in subgraphs(node):
        inside = {t.name for n in graph.nodes for t in n.outputs} | {t.name for t in graph.inputs}
        for tensor in _named(graph):
            if tensor.name not in inside and not tensor.is_empty():
                found.setdefault(tensor.name, tensor)
    return list(found.values())


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """The graphs among the attributes of the node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def _named(graph: gs.Graph) -> Iterator[gs.Tensor]:
    yield from graph.outputs
    for node in graph.nodes:
        yield from node.inputs
        yield from captured(node)
