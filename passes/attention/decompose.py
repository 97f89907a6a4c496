"""Operators that are made of others, decomposed where that lets channels go."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.names import Names
from passes.ops import rules
from passes.rewriting.channel_facts import Facts
from passes.rewriting.decomposition import Decomposition


def decompose_operators(graph: gs.Graph, facts: Facts) -> bool:
    """Replace every node whose rules say so by the simpler nodes that they give; whether any was."""
    names = Names(graph)
    nodes: list[gs.Node] = []
    changed = False
    for node in graph.nodes:
        writing = Decomposition(node, names)
        if rules(node).decompose(node, facts, writing):
            nodes += writing.nodes
            changed = True
        else:
            nodes.append(node)
    graph.nodes = nodes
    return changed
