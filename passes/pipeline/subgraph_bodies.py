"""Facts of the subgraphs of control flow."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.ops import rules
from passes.ops.control_flow import ControlFlow
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Cuts


@dataclass(frozen=True)
class Enclosing:
    """The node that a subgraph belongs to, the facts of the graph that it stands in, and cuts made in all of these."""

    node: gs.Node
    facts: Facts
    cuts: Cuts


def analyse_body(body: gs.Graph, around: Enclosing, inside: dict[int, Facts] | None = None) -> Facts:
    """Facts of a subgraph that hold in every round; `inside`: those of its own subgraphs, by `id`."""
    op = rules(around.node)
    if not isinstance(op, ControlFlow):
        return dataflow.analyse(body, around.facts, inside)
    given = op.entering(around.node, around.facts)
    while True:  # ends: what is given only shrinks
        entering = {(body.inputs[i].name, a): known for (i, a), known in given.items()}
        found = dataflow.analyse(body, around.facts, inside, entering)
        kept = op.kept(around.node, body, given, found)
        if all(key in kept and (kept[key].mask == known.mask).all() for key, known in given.items()):
            return found
        given = kept
