"""FLOPs, MACs and parameters of a graph, by the operators' own rules."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.ops import rules
from passes.report import Cost, NodeCost
from passes.shaped import shaped
from passes.tensors import describe, is_constant, is_float


def count(model: onnx.ModelProto) -> Cost:
    """Cost of a model for one example; dimensions without a size count as 1.

    FLOPs: matrix products `m n (2k - 1)`, convolutions `output elements · (2 · kernel · in / groups - 1)`, one more
    per output element where a bias is added, elementwise operators one per output element, data movement none.
    Parameters: elements of the floating-point and 8-bit initializers.

    Raises GraphError when the shapes contradict each other.
    """
    return of_graph(shaped(model))


def of_graph(graph: gs.Graph) -> Cost:
    """Cost of a graph whose tensors carry their shapes."""
    nodes = []
    weights: dict[str, int] = {}
    for node in graph.nodes:
        flops, macs = rules(node).cost(node)
        nodes.append(NodeCost(describe(node), str(node.op), int(flops), int(macs)))
        for tensor in node.inputs:
            if is_constant(tensor) and (is_float(tensor) or np.dtype(tensor.dtype).itemsize == 1):
                weights[tensor.name] = int(np.prod(tensor.shape))
    return Cost(
        flops=sum(n.flops for n in nodes),
        macs=sum(n.macs for n in nodes),
        params=sum(weights.values()),
        nodes=tuple(nodes),
    )
