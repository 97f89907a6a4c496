"""States of loops that no round changes, read from the graph around instead: exporters hand weights on like this."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.subgraphs import Body, replace_inside, subgraphs, with_bodies
from passes.ops import rules
from passes.ops.control_flow import Rounds


def capture_unchanged_states(graph: gs.Graph) -> bool:
    """Let bodies read the first value of each state that they hand on as it is; whether there were any."""
    editor, found = GraphEditor(graph), False
    for node in graph.nodes:
        for body in subgraphs(node):
            found |= capture_unchanged_states(body)
        op = rules(node)
        if isinstance(op, Rounds):
            found |= _capture(node, op, editor)
    editor.finish()
    return found


def _capture(node: gs.Node, op: Rounds, editor: GraphEditor) -> bool:
    (body,), found = subgraphs(node), False
    ports = op.ports(node, body)
    defined = {
        t.name for scope in with_bodies(body) for t in [*scope.inputs, *(t for n in scope.nodes for t in n.outputs)]
    }
    assert isinstance(body, Body)
    for (outer, entering), (written, leaving) in reversed([*zip(ports.enter, ports.leave, strict=True)]):
        first, state, last = node.inputs[outer], body.inputs[entering], body.outputs[leaving]
        while last is not state and last.inputs and last.inputs[0].op == "Identity":
            last = last.inputs[0].inputs[0]
        if last is not state or first.is_empty() or first.name in defined:
            continue
        found = True
        del node.inputs[outer], body.inputs[entering], body.outputs[leaving], body.declared[leaving]
        replace_inside(body, state, first)
        if written < len(node.outputs):
            result = node.outputs[written]
            del node.outputs[written]
            if not result.is_empty():
                editor.emit("Identity", [first], result, f"{result.name}_unchanged", before=node)
    return found
