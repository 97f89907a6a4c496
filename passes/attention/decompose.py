"""Operators that are made of others, decomposed where channels can then be removed."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.ops import rules
from passes.rewriting.channel_facts import Facts
from passes.rewriting.decomposition import Decomposition


def decompose_operators(graph: gs.Graph, facts: Facts) -> bool:
    """Replace every node whose rules say so by the simpler nodes that they give; whether any was."""
    editor, changed = GraphEditor(graph), False
    for node in graph.nodes:
        changed = rules(node).decompose(node, facts, Decomposition(node, editor)) or changed
    editor.finish()
    return changed
