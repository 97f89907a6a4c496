"""Preparing: from a valid model to a graph in which the analysis recognises what there is, of the same function.

The passes after it stand in `passes.pipeline`.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError
from passes.model.loading import shaped
from passes.simplify import constant_folding, dead_code, move_masks_after_products, reshape_chains_to_gather
from passes.simplify.decomposed_activations import gelu


def prepared(model: onnx.ModelProto, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of a model with constants folded, no identities, shuffles as Gathers and shapes on every tensor.

    Nodes that read an initializer named in `keep` stay even if they change nothing.
    """
    graph = checked(model, keep)
    dead_code.drop_identities(graph, keep)
    return simplified(graph, keep)


def checked(model: onnx.ModelProto, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of a model as it is, but for folded constants, with shapes on every tensor.

    Raises GraphError when the graph is not valid.
    """
    check_order(model.graph)
    return shaped(model, keep=keep)


def simplified(graph: gs.Graph, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of `checked` without identities, changed in place to that of `prepared`."""
    if reshape_chains_to_gather.replace_chains(graph):
        dead_code.drop_identities(graph, keep)
    constant_folding.fold_constants(graph, keep)
    dead_code.drop_unused(graph)
    move_masks_after_products.move_masks(graph, keep)
    if gelu.fuse(graph, keep):
        dead_code.drop_unused(graph)
    return graph


def check_order(graph: onnx.GraphProto) -> None:
    """Raise GraphError, naming the node, where one reads what nothing before it writes or writes what has a value."""
    ready = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    ready |= {t.values.name for t in graph.sparse_initializer} | {""}
    for node in graph.node:
        for name in node.input:
            if name not in ready:
                raise GraphError(f"Node `{_label(node)}` reads `{name}`, which nothing before it writes.")
        for name in node.output:
            if name and name in ready:
                raise GraphError(f"Node `{_label(node)}` writes `{name}`, which already has a value.")
            ready.add(name)
    for value in graph.output:
        if value.name not in ready:
            raise GraphError(f"Nothing writes the graph output `{value.name}`.")


def _label(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} -> {', '.join(node.output)}"
