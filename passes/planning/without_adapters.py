"""The plan of the policy `never`: producers compute what their consumers require, until no adapter is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Mask, is_constant, present, shape_of
from passes.ops import rules
from passes.planning.cheapest_storage import cheapest
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StorageFloor, StoragePlan


def without_adapters(graph: gs.Graph, facts: Facts, price: float, floor: StorageFloor, *, frugal: bool) -> StoragePlan:
    """The plan at a price that rules adapters out, and wider where it has some all the same; `floor` grows by that."""
    facts = replace(facts, dependence={})  # a slice that is computed from its representative needs an adapter
    while True:  # ends: what is stored only grows, and where all of it is nothing needs an adapter
        chosen = cheapest(graph, facts, price, floor, frugal=frugal)
        if not _Widening(graph, facts, chosen, floor).run():
            return chosen


def constant_operands(graph: gs.Graph, plan: StoragePlan) -> list[str]:
    """Names of the tensors that are constant altogether and so not computed, though something requires them."""
    read = [
        t
        for index, n in enumerate(graph.nodes)
        if index in plan.computed
        for i, t in present(n.inputs)
        if all(plan.required.get((index, i, a), np.ones(1, bool)).any() for a in range(len(shape_of(t) or ())))
    ]
    return list(dict.fromkeys(t.name for t in [*read, *graph.outputs] if t.name in plan.absent))


class _Widening:
    """Adds to what is stored until nothing needs an adapter, by one sweep from the inputs to the outputs."""

    def __init__(self, graph: gs.Graph, facts: Facts, chosen: StoragePlan, floor: StorageFloor) -> None:
        self.graph = graph
        self.facts = facts
        self.chosen = chosen
        self.floor = floor
        self.held = dict(chosen.stored)
        self.grew = False

    def run(self) -> bool:
        """Add to `floor` what takes the place of each adapter of the plan; whether that was anything."""
        for index, node in enumerate(self.graph.nodes):
            if index in self.chosen.computed:
                for i, tensor in present(node.inputs):
                    if not is_constant(tensor) and tensor.name not in self.chosen.absent:
                        self._visit(index, node, i, tensor)
        for tensor in self.graph.outputs:
            for axis in range(len(shape_of(tensor) or ())):
                if (tensor.name, axis) in self.held and tensor.name not in self.chosen.absent:
                    self._store(tensor, axis, self._all(tensor, axis))
        return self.grew

    def _visit(self, index: int, node: gs.Node, i: int, tensor: gs.Tensor) -> None:
        for axis in range(len(shape_of(tensor) or ())):
            if not self.facts.size(tensor, axis):
                continue
            there = self._held(tensor, axis)
            seen = self.chosen.required.get((index, i, axis), self._all(tensor, axis))
            if not seen.any():
                continue  # an operand that is left out
            if (seen & ~there).any():
                self._store(tensor, axis, seen)
            for output, a, mask in _reached(node, self.facts, i, axis, there & ~seen):
                self._store(output, a, mask)
            unread = self._stored(tensor, axis) & ~seen
            reached = _reached(node, self.facts, i, axis, unread)
            if unread.any() and all(
                t.name in self.chosen.absent or self._stored(t, a)[mask].all() for t, a, mask in reached
            ):
                self._leave(index, node)  # its outputs store all that they could of this, and it does not read it

    def _all(self, tensor: gs.Tensor, axis: int) -> Mask:
        return np.ones(self.facts.size(tensor, axis) or 0, bool)

    def _stored(self, tensor: gs.Tensor, axis: int) -> Mask:
        """What the plan stores; `_held` adds what this sweep does."""
        return self.chosen.stored.get((tensor.name, axis), self._all(tensor, axis))

    def _held(self, tensor: gs.Tensor, axis: int) -> Mask:
        return self.held.get((tensor.name, axis), self._all(tensor, axis))

    def _store(self, tensor: gs.Tensor, axis: int, mask: Mask) -> None:
        key = tensor.name, axis
        before = self.floor.stored.get(key, np.zeros(mask.size, bool))
        self.floor.stored[key] = before | mask
        self.held[key] = self._held(tensor, axis) | mask
        self.grew = self.grew or bool((mask & ~before).any())

    def _leave(self, index: int, node: gs.Node) -> None:
        self.grew = self.grew or index not in self.floor.intact
        self.floor.intact.add(index)
        for tensor in node.outputs:
            for axis in range(len(shape_of(tensor) or ())):
                if self.facts.size(tensor, axis):
                    self._store(tensor, axis, self._all(tensor, axis))


def _reached(node: gs.Node, facts: Facts, index: int, axis: int, there: Mask) -> Iterator[tuple[gs.Tensor, int, Mask]]:
    """What the outputs must store for the node to read these slices of its input."""
    links = [k for k in facts.links(node) if (k.input, k.input_axis) == (index, axis)]
    for link in links:
        output = node.outputs[link.output]
        yield output, link.output_axis, link.forward(there, facts.size(output, link.output_axis) or 0)
    for o, output in enumerate(node.outputs):
        for a in range(len(shape_of(output) or ())):
            carried = not links and (index, axis) in rules(node).carries(node, facts, o, a)
            if carried and facts.size(output, a) == there.size:
                yield output, a, there
