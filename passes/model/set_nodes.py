"""Replacement of the nodes of a `GraphProto`."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give the graph these nodes, its own among them, in this order, in place."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # its own go with the old list
    del graph.node[:]
    graph.node.extend(copies)
