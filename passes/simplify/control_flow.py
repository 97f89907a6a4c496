"""Control flow that does nothing at run time: the taken branch of an If, and states of loops that no round changes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.subgraphs import Body, replace_inside, subgraphs, with_bodies
from passes.graph.tensors import is_constant
from passes.ops import rules
from passes.ops.control_flow import ControlFlow, Rounds, Scan


def inline_taken_branches(graph: gs.Graph) -> bool:
    """Put the nodes of the branch in the place of every If with a constant condition; whether there was any.

    Exporters write such branches where a shape decides, and the shape is static.
    """
    branching = ((n, op) for n in graph.nodes if isinstance(op := rules(n), ControlFlow))
    chosen = {id(n): body for n, op in branching if (body := op.taken(n)) is not None}
    if not chosen:
        return False
    editor = GraphEditor(graph)
    taken = {t.name: id(t) for n in graph.nodes for t in [*n.inputs, *n.outputs]}
    taken |= {t.name: id(t) for t in [*graph.inputs, *graph.outputs]}
    for node in graph.nodes:
        body = chosen.get(id(node))
        if body is None:
            continue
        for tensor in [t for n in body.nodes for t in [*n.inputs, *n.outputs]] + list(body.outputs):
            if not tensor.is_empty() and taken.get(tensor.name, id(tensor)) != id(tensor):
                tensor.name = editor.names.fresh(tensor.name)
            taken[tensor.name] = id(tensor)
        for inlined in body.nodes:
            editor.insert(inlined, before=node)
        outputs = list(node.outputs)
        erase(node)
        for inner, outer in zip(list(body.outputs), outputs, strict=True):
            editor.emit("Identity", [inner], outer, f"{outer.name}_taken", before=node)
    editor.finish()
    return True


def capture_unchanged_states(graph: gs.Graph) -> bool:
    """Let bodies read the first value of each state that they hand on as it is; whether there were any.

    Exporters hand weights on like this.
    """
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
        if isinstance(op, Scan) and not is_constant(first):
            continue  # OpenVINO reads no Scan whose body reads what is computed around it
        found = True
        del node.inputs[outer], body.inputs[entering], body.outputs[leaving], body.declared[leaving]
        replace_inside(body, state, first)
        if written < len(node.outputs):
            result = node.outputs[written]
            del node.outputs[written]
            if not result.is_empty():
                editor.emit("Identity", [first], result, f"{result.name}_unchanged", before=node)
    return found
