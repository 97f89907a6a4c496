"""A graph brought into the form in which most is known of it, with all that is known."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes import facts, fold, heads, hoist, writing
from passes.facts import Facts


def understood(graph: gs.Graph) -> tuple[Facts, frozenset[str]]:
    """The facts of a prepared graph, and the names of tensors that were put in to make them plain.

    Afterwards operators are written out, parts picked early and heads aligned where that lets channels go; the
    function of the graph is the same.
    """
    found = facts.analyse(graph)
    if writing.write_out(graph, found):
        found = facts.analyse(graph)
    if hoist.hoist(graph, found):
        fold.drop_unused(graph)
        found = facts.analyse(graph)
    made = heads.align(graph, found)
    return (facts.analyse(graph) if made else found), made
