"""Dead code elimination: nodes that do nothing, and nodes whose outputs are not used."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from passes.graph.editor import become, drop_erased, erase, erase_keeping_input, erase_keeping_output, replace_tensor
from passes.graph.normalization_steps import ends_normalization
from passes.graph.subgraphs import captured, subgraphs
from passes.ops import rules
from passes.ops.concat_split import Concat
from passes.ops.shape import Regrouping


def drop_identities(graph: gs.Graph, keep: Collection[str] = (), *, shapes: bool = False) -> None:
    """Take away nodes that pass an input on as it is: Identity, Dropout, multiplication by one, addition of zero.

    Before them go the parts of a Concat that hold nothing. Nodes that read an initializer named in `keep` stay, and the
    scale and bias of a normalisation in steps. shapes: also those that give it the shape that it has.
    """
    outputs = {id(t) for t in graph.outputs}
    own = {id(n) for n in graph.nodes}  # a subgraph reads what nodes around it write
    # a subgraph may give a tensor of the outer graph as its own output; that name is not followed
    bodies = [body for node in graph.nodes for body in subgraphs(node)]
    inside = {t.name for body in bodies for t in (*body.outputs, *(t for n in body.nodes for t in captured(n)))}
    for node in list(graph.nodes):
        op = rules(node)
        if isinstance(op, Concat) and len(parts := op.parts(node)) < len(node.inputs):
            node.inputs = parts
        source = op.passes_on(node)
        if source is None and shapes and isinstance(op, Regrouping):
            source = op.leaves_shape(node)
        seen = any(id(t) in outputs for t in node.outputs[1:])
        if source is None or seen or any(t.name in keep for t in node.inputs) or ends_normalization(node):
            continue
        target = node.outputs[0]
        if id(target) in outputs:
            # the name must stay: the producer writes it, if nothing else needs the name it writes now
            made_here = bool(source.inputs) and id(source.inputs[0]) in own
            if not made_here or id(source) in outputs or source.name in inside:
                become(node, "Identity", [source])
                node.outputs = [target]
                continue
            erase_keeping_output(node, source)
            replace_tensor(source, target)
        elif target.name not in inside:
            erase_keeping_input(node, source)
    drop_erased(graph)


def drop_unused(graph: gs.Graph) -> None:
    """Take away nodes that no output depends on."""
    needed = {id(t) for t in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if any(id(t) in needed for t in node.outputs):
            kept.append(node)
            needed.update(map(id, node.inputs), map(id, captured(node)))
        else:
            erase(node)
    graph.nodes = kept[::-1]
