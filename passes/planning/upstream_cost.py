"""Upstream cost of one more slice: its share of its producer, and of all before that."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import is_constant, output_index
from passes.ops import rules
from passes.ops.elementwise import Elementwise
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key
from passes.sizes.tokens_per_example import repeated


class UpstreamCost:
    """FLOPs for each slice, remembered by tensor and axis. `multiples` are those of the graph.

    What a subgraph reads from outside costs nothing there.
    """

    def __init__(self, graph: gs.Graph, facts: Facts, multiples: Mapping[str, int]) -> None:
        self._producer = {t.name: node for node in graph.nodes for t in node.outputs}
        self._facts = facts
        self._multiples = multiples
        self._found: dict[Key, float] = {}
        self._costs: dict[int, tuple[int, int]] = {}  # FLOPs and multiply-adds, by node

    def per_slice(self, tensor: gs.Tensor, axis: int) -> float:
        """FLOPs of computing one more slice along the axis, with what that needs upstream."""
        found = self._found.get((tensor.name, axis))
        if found is not None:
            return found
        waiting = [(tensor, axis, self._sources(tensor, axis))]
        while waiting:  # a chain may be longer than Python likes to call itself
            current, a, sources = waiting[-1]
            missing = next(((t, b) for t, b in sources if (t.name, b) not in self._found), None)
            if missing is not None:
                waiting.append((*missing, self._sources(*missing)))
            else:
                waiting.pop()
                # branches that meet again share what is before them: the most expensive one stands for all
                before = max([self._found[t.name, b] for t, b in sources], default=0.0)
                self._found[current.name, a] = self._own(current, a) + before
        return self._found[tensor.name, axis]

    def _sources(self, tensor: gs.Tensor, axis: int) -> list[tuple[gs.Tensor, int]]:
        """Computed inputs, and their axes, that must store a slice for this axis to store it."""
        node = self._producer.get(tensor.name)
        if node is None or not self._facts.size(tensor, axis):
            return []
        carried = rules(node).carries(node, self._facts, output_index(node, tensor), axis)
        return [(node.inputs[i], a) for i, a in carried if not is_constant(node.inputs[i])]

    def _own(self, tensor: gs.Tensor, axis: int) -> float:
        """FLOPs of the operator itself for each slice."""
        node, size = self._producer.get(tensor.name), self._facts.size(tensor, axis)
        if node is None or not size:
            return 0.0
        if id(node) not in self._costs:
            op = rules(node)
            work, macs = op.cost(node)
            # an operator that takes the place of several counts as these
            self._costs[id(node)] = work * op.stands_for if isinstance(op, Elementwise) else work, macs
        flops, macs = self._costs[id(node)]
        shares: list[float] = []
        if macs and node.inputs and not is_constant(source := node.inputs[0]):
            # a contraction sums over no more than what is live along the emptiest axis
            shares = [np.count_nonzero(self._facts.live(source, a)) / n for a, n in self._facts.axes(source)]
        return flops / size * min(shares, default=1.0) * repeated(tensor, self._multiples)
