"""The order of channels, moved into the weights around, so that a Gather of channels can be removed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import Change, GraphEditor, sequence
from passes.graph.subgraphs import is_read_by_others
from passes.graph.tensors import SMALL, Index, Mask, initializer, is_constant, output_index
from passes.rewriting.origins import Origins
from passes.weights import quantized
from passes.weights.streaming import Picked


def live_first(dead: Mask) -> Index | None:
    """The places along the last axis, those first that are not dead; None where no more of them can be left out."""
    alive = ~dead
    if int(alive.reshape(-1, alive.shape[-1]).any(axis=0).sum()) == int(alive.sum(axis=-1).max()):
        return None
    return np.argsort(dead, axis=-1, kind="stable")


class Reordering:
    """A trait of operators: the node can write or read its channels in another order."""

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        """What makes the node write slices `order` of what that output holds now along the axis; None: it cannot be."""
        return None

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        """What makes the node find slice i of input `index` at `order[i]`, a permutation; None if that cannot be."""
        return None


class Orders:
    """What operators ask for to write or read channels in another order; `origins` are told of what was changed."""

    def __init__(self, graph: gs.Graph, rules: Callable[[gs.Node], object], origins: Origins | None = None) -> None:
        self._rules = rules
        self._editor = GraphEditor(graph)
        self._origins = Origins() if origins is None else origins

    def written(self, tensor: gs.Tensor, axis: int, order: Index) -> Change | None:
        """Let the tensor, which nothing else may read, have the channels `order` of those that it has now."""
        if self._editor.sole_reader(tensor) is None or len(tensor.inputs) != 1:
            return None
        node = tensor.inputs[0]
        output = output_index(node, tensor)
        op = self._rules(node)
        change = op.writes_in_order(node, output, axis, order, self) if isinstance(op, Reordering) else None
        if change is None:
            return None

        def resize() -> None:
            self._origins.take(tensor.name, axis, order)
            if isinstance(tensor, gs.Variable) and tensor.shape is not None:
                tensor.shape = [order.size if a == axis else d for a, d in enumerate(tensor.shape)]

        return sequence([change, resize])

    def read(self, tensor: gs.Tensor, axis: int, order: Index) -> Change | None:
        """Let all consumers of this tensor take its channels from where they are: channel `order[i]` instead of i."""
        if tensor.name in self._editor.seen_outside or not tensor.outputs:
            return None
        changes: list[Change] = []
        for consumer in list(tensor.outputs):
            places = [i for i, t in enumerate(consumer.inputs) if t is tensor]
            if len(places) != 1:
                return None
            op = self._rules(consumer)
            change = op.reads_in_order(consumer, places[0], axis, order, self) if isinstance(op, Reordering) else None
            if change is None:
                return None
            changes.append(change)
        return sequence([*changes, lambda: self._origins.take(tensor.name, axis, np.argsort(order))])

    def taken(self, node: gs.Node, index: int, axis: int, order: Index) -> Change | None:
        """Let a constant operand be cut or put in order along the axis."""
        tensor = node.inputs[index]
        if not is_constant(tensor) or isinstance(tensor.dtype, int) or quantized.has_blocks(tensor):
            return None
        if is_read_by_others(tensor) and int(np.prod(tensor.shape)) > SMALL:
            return None  # others read it as it is, and it would be stored twice

        def change() -> None:
            current = initializer(node, index)  # which another change may have put in order
            node.inputs[index] = quantized.moved_initializer(self._editor, current, Picked({axis: order}))

        return change
