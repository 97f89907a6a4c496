"""A graph brought into the form in which most is known of it, with all that is known."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes import facts, fold, heads, hoist, nested, writing
from passes.facts import Facts
from passes.nested import Nested
from passes.policy import Policy


def understood(graph: gs.Graph, *, frugal: bool = False) -> tuple[Facts, frozenset[str]]:
    """The facts of a prepared graph, and the names of tensors that were put in to make them plain.

    Afterwards operators are written out, parts picked early and heads aligned where that lets channels go; the
    function of the graph is the same. `frugal`: no map of constants is stored that takes more than what makes it.
    """
    found = facts.analyse(graph)
    if writing.write_out(graph, found):
        found = facts.analyse(graph)
    if hoist.hoist(graph, found):
        fold.drop_unused(graph)
        found = facts.analyse(graph)
    made = heads.align(graph, found)
    found = facts.analyse(graph) if made else found
    found.frugal = frugal
    return found, made


def with_subgraphs(graph: gs.Graph, found: Facts, adapters: Policy = "auto") -> tuple[Facts, Nested]:
    """Shrink the subgraphs of control flow; the facts with what is known inside them, and what was masked there."""
    inner = nested.shrink(graph, found, adapters)
    if not inner.facts:
        return found, inner
    wider = facts.analyse(graph, inside=inner.facts)
    wider.frugal = found.frugal
    return wider, inner
