"""Inline the taken branch of an If with a constant condition."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.ops import rules
from passes.ops.control_flow import ControlFlow


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
