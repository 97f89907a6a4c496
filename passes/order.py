"""The order of channels, put into the weights around: a Gather that permutes or picks channels of a product goes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.changes import Change, in_turn
from passes.lazy import Picked, moved
from passes.names import Names
from passes.ops import rules
from passes.quantized import Quantized
from passes.subgraphs import seen_outside
from passes.tensors import SMALL, Index, is_constant, shape_of, size_of


def absorb_orders(graph: gs.Graph) -> None:
    """Fold Gathers into the weights before them, or into all the weights behind them.

    Afterwards none is left that picks each channel once at most and has nothing but single-read operators between
    itself and a product of constant weights, nor a permutation that only such products read.
    """
    orders = Orders(graph)
    for node in list(graph.nodes):
        picked = rules(node).picked(node)
        if picked is None or np.unique(picked[1]).size < picked[1].size:
            continue
        axis, order = picked
        data, output = node.inputs[0], node.outputs[0]
        change = orders.written(data, axis, order)
        if change is not None:
            change()
            producer = data.inputs[0]
            node.inputs.clear()
            node.outputs.clear()
            producer.outputs = [output if t is data else t for t in producer.outputs]
            continue
        change = orders.read(output, axis, order) if size_of(data, axis) == order.size else None
        if change is not None:
            change()
            for consumer in list(output.outputs):
                consumer.inputs = [data if t is output else t for t in consumer.inputs]
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes = [n for n in graph.nodes if n.outputs]


class Orders:
    """What operators ask for to write or read channels in another order."""

    def __init__(self, graph: gs.Graph) -> None:
        self._names = Names(graph)
        self._shared = seen_outside(graph)

    def written(self, tensor: gs.Tensor, axis: int, order: Index) -> Change | None:
        """Let the tensor, which nothing else may read, hold the channels `order` of what it holds now."""
        if is_constant(tensor) or tensor.name in self._shared or len(tensor.outputs) != 1 or len(tensor.inputs) != 1:
            return None
        node = tensor.inputs[0]
        output = next(i for i, t in enumerate(node.outputs) if t is tensor)
        change = rules(node).writes_in_order(node, output, axis, order, self)
        if change is None:
            return None
        made = change

        def both() -> None:
            made()
            shape = shape_of(tensor)
            tensor.shape = None if shape is None else [order.size if a == axis else d for a, d in enumerate(shape)]

        return both

    def read(self, tensor: gs.Tensor, axis: int, order: Index) -> Change | None:
        """Let all who read this tensor take its channels from where they are: channel `order[i]` instead of i."""
        if tensor.name in self._shared or not tensor.outputs:
            return None
        changes: list[Change] = []
        for consumer in list(tensor.outputs):
            places = [i for i, t in enumerate(consumer.inputs) if t is tensor]
            change = (
                rules(consumer).reads_in_order(consumer, places[0], axis, order, self) if len(places) == 1 else None
            )
            if change is None:
                return None
            changes.append(change)
        return in_turn(changes)

    def taken(self, node: gs.Node, index: int, axis: int, order: Index) -> Change | None:
        """Let a constant operand be cut or put in order along the axis."""
        tensor = node.inputs[index]
        if not is_constant(tensor) or isinstance(tensor, Quantized) or isinstance(tensor.dtype, int):
            return None
        if len(tensor.outputs) > 1 and int(np.prod(tensor.shape)) > SMALL:
            return None  # others read it as it is, and it would be stored twice

        def change() -> None:
            values = moved(tensor, Picked({axis: order}))
            node.inputs[index] = gs.Constant(self._names.fresh(tensor.name), values)

        return change
