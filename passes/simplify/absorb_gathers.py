"""Gathers that permute or pick channels of a product are folded into the weights before or after them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import drop_erased, erase_keeping_input, erase_keeping_output
from passes.graph.subgraphs import seen_outside
from passes.graph.tensors import size_of
from passes.ops import rules
from passes.ops.slice_gather import Gather
from passes.rewriting.channel_order import Orders
from passes.rewriting.origins import Origins


def absorb_orders(graph: gs.Graph, origins: Origins) -> None:
    """Fold Gathers into the weights before them, or into all the weights after them.

    Afterwards none is left that picks each channel once at most and has nothing but single-read operators between
    itself and a product of constant weights, nor a permutation that only such products read.
    """
    orders, seen = Orders(graph, rules, origins), seen_outside(graph)
    for node in list(graph.nodes):
        op = rules(node)
        picked = op.picked(node) if isinstance(op, Gather) else None
        if picked is None or np.unique(picked[1]).size < picked[1].size:
            continue
        axis, order = picked
        data, output = node.inputs[0], node.outputs[0]
        change = orders.written(data, axis, order)
        if change is not None:
            change()
            erase_keeping_output(node, data)
            continue
        change = orders.read(output, axis, order) if size_of(data, axis) == order.size else None
        if change is not None:
            change()
            if len(data.inputs) == len(data.outputs) == 1 and data.name not in seen:
                erase_keeping_output(node, data)
            else:
                erase_keeping_input(node, data)
    drop_erased(graph)
