"""Exposure of attention heads: early picks and aligned heads, with the facts of the result."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.attention import align_heads, split_projections
from passes.rewriting.channel_facts import Facts
from passes.rewriting.origins import Origins
from passes.simplify import dead_code


def understood(graph: gs.Graph) -> tuple[Facts, frozenset[str], frozenset[str], Origins]:
    """The facts of a prepared graph, the names of tensors that `align` put in, and what is from where.

    Afterwards parts are picked early and heads aligned where channels can then be removed; the function of the graph is
    the same.
    """
    found = dataflow.analyse(graph)
    origins = Origins()
    if split_projections.hoist(graph, found, origins):
        dead_code.drop_unused(graph)
        found = dataflow.analyse(graph)
    made, zeros = align_heads.align(graph, found, origins)
    found = dataflow.analyse(graph) if made else found
    return found, made, zeros, origins
