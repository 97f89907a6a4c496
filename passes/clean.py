"""What is done to a graph before the analysis, and after the rewriting."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_graphsurgeon as gs

from passes import ahead, cost, factored, fold, fuse, gelu, inblocks, narrow, order, quantized, ramps, reorder, unroll
from passes.errors import GraphError
from passes.rates import Rates
from passes.shaped import shaped


def prepared(model: onnx.ModelProto, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of a model with constants folded, identities gone, shuffles as indices and shapes on every tensor.

    Nodes that read an initializer named in `keep` stay even if they change nothing.
    """
    graph = checked(model, keep)
    fold.drop_identities(graph, keep)
    return simplified(graph, keep)


def checked(model: onnx.ModelProto, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of a model as it is, but for folded constants, with shapes on every tensor.

    Raises GraphError when the graph is not valid.
    """
    check_order(model.graph)
    return shaped(model, keep=keep)


def simplified(graph: gs.Graph, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of `checked` without identities, changed in place to that of `prepared`."""
    if reorder.reorder(graph):
        fold.drop_identities(graph, keep)
    fold.fold_constants(graph, keep)
    fold.drop_unused(graph)
    factored.put_masks_behind(graph, keep)
    if gelu.join(graph, keep):
        fold.drop_unused(graph)
    return graph


def clean(graph: gs.Graph, rates: Rates | None = None, flops: int = 0, source: onnx.ModelProto | None = None) -> None:
    """Leave nothing of the masks behind: fold, fuse, drop, share.

    With rates, write what runs faster by them, as far as the graph does not come to more than these FLOPs. With the
    source, store weights in as few bits as it does.
    """
    fold.fold_constants(graph)
    # Reshapes that change nothing go only now: planned without them, a masked NASNet kept 2% more of its FLOPs
    fold.drop_identities(graph, shapes=True)
    order.absorb_orders(graph)
    fuse.fuse(graph)
    ramps.join(graph)
    ahead.fold_ahead(graph)
    fold.drop_identities(graph)
    fold.drop_unused(graph)
    if rates is not None:
        inblocks.stay_in_blocks(graph, rates, flops - cost.of_graph(graph).flops)
        unroll.unroll(graph, rates, flops - cost.of_graph(graph).flops)
    if source is not None:
        narrow.narrowed(graph, source)
    quantized.restore(graph)
    fold.share_constants(graph)


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
