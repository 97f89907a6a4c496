"""The subgraphs of control flow, shrunk as graphs of their own that know what is constant around them."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from passes.adapters.placement import Policy
from passes.analysis import dataflow
from passes.graph.names import Names
from passes.graph.subgraphs import subgraphs
from passes.ops import rules
from passes.ops.control_flow import ControlFlow
from passes.pipeline import control_flow
from passes.planning import explain
from passes.planning.apply import apply
from passes.planning.planner import PlanOptions, plan
from passes.results import Held, MaskedAxis
from passes.rewriting.channel_facts import Facts
from passes.simplify import constant_folding, dead_code, fold_scale_shift
from passes.targets.onnxruntime import maxpool_padding


@dataclass
class Nested:
    """What is known inside, by `id` of the subgraph, and the channels that were masked there."""

    facts: dict[int, Facts] = field(default_factory=dict)
    masked: list[MaskedAxis] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)


def shrink(graph: gs.Graph, found: Facts, adapters: Policy) -> Nested:
    """Shrink the subgraphs of all nodes in place, the innermost first; what they read and give stays as it is."""
    nested = Nested()
    _shrink_inside(graph, found, adapters, nested)
    if nested.facts:
        _tell_apart(graph)
    return nested


def _shrink_inside(graph: gs.Graph, found: Facts, adapters: Policy, nested: Nested) -> None:
    for node in graph.nodes:
        for body in subgraphs(node):
            dead_code.drop_identities(body)
            merged = maxpool_padding.merged(body)
            constant_folding.fold_constants(body)
            dead_code.drop_unused(body)
            known = _analysed(node, body, found, {})
            before = len(nested.facts)
            _shrink_inside(body, known, adapters, nested)
            if len(nested.facts) > before:
                known = _analysed(node, body, found, nested.facts)
            nested.facts[id(body)] = known
            chosen = plan(body, known, PlanOptions(adapters, frugal=True))
            masked, held = explain.explain(body, known, chosen, adapters)
            nested.masked += masked
            nested.held += held
            apply(body, known, chosen)
            constant_folding.fold_constants(body)
            dead_code.drop_identities(body)
            fold_scale_shift.fold_into_producers(body)
            dead_code.drop_unused(body)
            constant_folding.share_constants(body)
            maxpool_padding.keep_apart(body, merged)


def _analysed(node: gs.Node, body: gs.Graph, around: Facts, inside: dict[int, Facts]) -> Facts:
    """Facts of a subgraph that hold in every round."""
    op = rules(node)
    if not isinstance(op, ControlFlow):
        return dataflow.analyse(body, around, inside)
    given = op.entering(node, around)
    while True:  # ends: what is given only shrinks
        known = dataflow.analyse(body, around, inside, {(body.inputs[i].name, a): k for (i, a), k in given.items()})
        kept = op.kept(node, body, given, known)
        if all(key in kept and (kept[key].mask == k.mask).all() for key, k in given.items()):
            return known
        given = kept


def _tell_apart(graph: gs.Graph) -> None:
    """Rename what got a name inside that something around it has."""
    names = Names(graph)
    constants: dict[str, int] = {}

    def visit(scope: gs.Graph, around: dict[str, int]) -> None:
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


def with_subgraphs(graph: gs.Graph, found: Facts, adapters: Policy = "auto") -> tuple[Facts, Nested]:
    """Shrink the subgraphs of control flow; the facts with what is known inside them, and what was masked there."""
    inner = control_flow.shrink(graph, found, adapters)
    if not inner.facts:
        return found, inner
    return dataflow.analyse(graph, inside=inner.facts), inner
