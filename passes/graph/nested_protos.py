"""Bodies of nodes in an ONNX model, and what is read in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, NodeProto

_WITH_GRAPHS = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds: the branches of an If, the body of a Loop or Scan."""
    for attribute in node.attribute or ():  # asking takes less than going through none
        if attribute.type in _WITH_GRAPHS:
            yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def nested(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These nodes and those in their bodies, at any depth."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from nested(body.node)


def read_names(node: NodeProto) -> list[str]:
    """Names of the tensors that a node reads, in order, then those that its bodies read from around them."""
    return [name for name in (*node.input, *sorted(captured_names(node))) if name]


def captured_names(node: NodeProto) -> set[str]:
    """Names that the bodies of the node read and do not define."""
    return {name for body in bodies(node) for name in _free_names(body)}


def _free_names(graph: GraphProto) -> set[str]:
    read = {value.name for value in graph.output}
    defined = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    defined |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        read |= {*node.input} | captured_names(node)
        defined |= {*node.output}
    return read - defined
