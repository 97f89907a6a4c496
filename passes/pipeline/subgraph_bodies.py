"""What is known in the subgraphs of control flow, and names that tell apart what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.graph.editor import Names
from passes.graph.subgraphs import subgraphs
from passes.ops import rules
from passes.ops.control_flow import ControlFlow
from passes.rewriting.channel_facts import Facts


@dataclass(frozen=True)
class Enclosing:
    """The node that a subgraph belongs to, and the facts of the graph that it stands in."""

    node: gs.Node
    facts: Facts


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


def distinguish(graph: gs.Graph) -> None:
    """Rename what got a name inside that something around it has."""
    names = Names(graph)
    constants: dict[str, int] = {}

    def visit(scope: gs.Graph, around: Mapping[str, int]) -> None:
        own = dict(around)
        read = [t for node in scope.nodes for t in node.inputs]
        for tensor in [*scope.inputs, *(t for node in scope.nodes for t in node.outputs), *read, *scope.outputs]:
            if tensor.is_empty():
                continue
            if any(taken.get(tensor.name, id(tensor)) != id(tensor) for taken in (own, constants)):
                tensor.name = names.fresh(tensor.name)
            own[tensor.name] = id(tensor)
            if isinstance(tensor, gs.Constant):  # where it will be stored is not decided yet
                constants[tensor.name] = id(tensor)
        for node in scope.nodes:
            for body in subgraphs(node):
                visit(body, own)

    visit(graph, {})
