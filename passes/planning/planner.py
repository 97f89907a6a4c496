"""The plan of a graph: what each tensor stores and what each consumer is given, under a policy for adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.adapters.placement import Policy, flops_per_moved_element
from passes.graph.tensors import Mask, all_set, any_set, present, shape_of
from passes.ops import rules
from passes.planning.cheapest_storage import cheapest
from passes.planning.groundwork import Groundwork
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StorageFloor, StoragePlan


@dataclass(frozen=True)
class PlanOptions:
    """What a plan may do.

    adapters: `auto` restores constants at a consumer's input where that costs less than computing them; `always` takes
    adapters to cost nothing, so that the fewest FLOPs are left; `never` writes none: the producers compute what their
    consumers require. A tensor that is constant altogether is a constant operand in any case. frugal: no constant map
    is stored that takes more than the weights that make it.
    """

    adapters: Policy = "auto"
    frugal: bool = False


def plan(
    graph: gs.Graph, facts: Facts, options: PlanOptions = PlanOptions(), floor: StorageFloor | None = None
) -> StoragePlan:
    """What each tensor of an analysed graph stores; `floor` in any case, which grows where no adapters may be written.

    Raises ValueError for a policy that there is not.
    """
    price, floor = flops_per_moved_element(options.adapters), floor or StorageFloor()
    # a slice that is computed from its representative needs an adapter
    depends = bool(facts.dependence) and options.adapters != "never"
    known = facts if depends or not facts.dependence else replace(facts, dependence={})
    ground = _groundwork(graph, known, facts, depends=depends)
    while True:  # ends: what is stored only grows, and where all of it is nothing needs an adapter
        chosen = cheapest(ground, known, price, floor, frugal=options.frugal)
        if options.adapters != "never" or not _Widening(ground, known, chosen, floor).run():
            return chosen


def _groundwork(graph: gs.Graph, known: Facts, facts: Facts, *, depends: bool) -> Groundwork:
    """What plans of the graph have in common, of which the `facts` remember some; `known` is what a plan may use."""

    def remembered(depends: bool) -> Groundwork | None:
        ground = facts.plans.get(depends)
        return ground if isinstance(ground, Groundwork) and ground.graph is graph else None

    ground = remembered(depends)
    if ground is None:
        other = remembered(True)
        facts.plans[depends] = ground = Groundwork(graph, known) if other is None else other.without_dependence(known)
    return ground


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

    def __init__(self, ground: Groundwork, facts: Facts, plan: StoragePlan, floor: StorageFloor) -> None:
        self.ground = ground
        self.facts = facts
        self.plan = plan
        self.floor = floor
        self.stored = dict(plan.stored)
        self.grew = False

    def run(self) -> bool:
        """Add to `floor` what takes the place of each adapter of the plan; whether that was anything."""
        for planned in self.ground.nodes:
            if planned.index in self.plan.computed:
                for i, tensor, constant, axes in planned.inputs:
                    if not constant and tensor.name not in self.plan.absent:
                        for axis, size, _ in axes:
                            key, asked = (tensor.name, axis), self.plan.required.get((planned.index, i, axis))
                            stored = self.stored.get(key)
                            if asked is not stored or stored is not self.plan.stored.get(key):
                                self._visit(planned.index, planned.node, i, axis, size)
        for tensor in self.ground.graph.outputs:
            for axis, size in self.facts.axes(tensor):
                if (tensor.name, axis) in self.stored and tensor.name not in self.plan.absent:
                    self._store(tensor, axis, np.ones(size, bool))
        return self.grew

    def _visit(self, index: int, node: gs.Node, i: int, axis: int, size: int) -> None:
        """Let an input and the outputs store what spares this node an adapter of it, along one axis."""
        key = node.inputs[i].name, axis
        tensor, whole = node.inputs[i], np.ones(size, bool)
        required = self.plan.required.get((index, i, axis), whole)
        if not any_set(required):
            return  # an operand that is left out
        stored = self.stored.get(key, whole)
        if any_set(required & ~stored):
            self._store(tensor, axis, required)
        needless, unread = stored & ~required, self.plan.stored.get(key, whole) & ~required
        if any_set(needless):
            for output, a, mask in _reached(node, self.facts, i, axis, needless):
                self._store(output, a, mask)
        if any_set(unread):
            reached = [r for r in _reached(node, self.facts, i, axis, unread) if r[0].name not in self.plan.absent]
            if all(all_set(self.plan.stays(t.name, a, mask.size)[mask]) for t, a, mask in reached):
                self._leave(index, node)  # its outputs store all that they could of this, and it does not read it

    def _store(self, tensor: gs.Tensor, axis: int, mask: Mask) -> None:
        key = tensor.name, axis
        before = self.floor.stored.get(key, np.zeros(mask.size, bool))
        self.floor.stored[key] = before | mask
        self.stored[key] = self.stored.get(key, np.ones(mask.size, bool)) | mask
        self.grew = self.grew or any_set(mask & ~before)

    def _leave(self, index: int, node: gs.Node) -> None:
        """Leave the node as it is."""
        self.grew = self.grew or index not in self.floor.intact
        self.floor.intact.add(index)
        for tensor in node.outputs:
            for axis, size in self.facts.axes(tensor):
                self._store(tensor, axis, np.ones(size, bool))


def _reached(node: gs.Node, facts: Facts, index: int, axis: int, read: Mask) -> Iterator[tuple[gs.Tensor, int, Mask]]:
    """What the outputs must store for the node to read these slices of its input."""
    links = [k for k in facts.links(node) if (k.input, k.input_axis) == (index, axis)]
    for link in links:
        output = node.outputs[link.output]
        yield output, link.output_axis, link.forward(read, facts.size(output, link.output_axis) or 0)
    for o, output in enumerate(node.outputs if not links else ()):
        for a, size in facts.axes(output):
            if size == read.size and (index, axis) in rules(node).carries(node, facts, o, a):
                yield output, a, read
