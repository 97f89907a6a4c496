"""FLOPs, MACs and parameters of a graph, by the operators' own rules."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.ops import rules
from passes.report import Cost, NodeCost
from passes.shaped import shaped
from passes.subgraphs import bodies, subgraphs
from passes.tensors import describe, is_constant, is_float, size_of


def count(model: onnx.ModelProto) -> Cost:
    """Cost of a model for one example; dimensions without a size count as 1.

    FLOPs: matrix products `m n (2k - 1)`, convolutions `output elements · (2 · kernel · in / groups - 1)`, one more
    per output element where a bias is added, elementwise operators one per output element, data movement none.
    Parameters: elements of the floating-point and 8-bit initializers. Of the branches of an If the dearest counts, of a
    Loop or Scan one round.

    Raises GraphError when the shapes contradict each other.
    """
    return of_graph(shaped(model))


def of_graph(graph: gs.Graph) -> Cost:
    """Cost of a graph whose tensors carry their shapes."""
    nodes = []
    for node in graph.nodes:
        flops, macs = rules(node).cost(node)
        inside = [of_graph(body) for body in subgraphs(node)]
        flops += max((c.flops for c in inside), default=0)
        macs += max((c.macs for c in inside), default=0)
        axis = rules(node).width_axis
        width = None if axis is None else size_of(node.outputs[0], axis)
        nodes.append(NodeCost(describe(node), str(node.op), int(flops), int(macs), width))
    weights = {
        id(t): int(np.prod(t.shape))
        for scope in (graph, *bodies(graph))
        for node in scope.nodes
        for t in node.inputs
        if is_constant(t) and (is_float(t) or np.dtype(t.dtype).itemsize == 1)
    }
    return Cost(
        flops=sum(n.flops for n in nodes),
        macs=sum(n.macs for n in nodes),
        params=sum(weights.values()),
        nodes=tuple(nodes),
    )
