"""The plan of a graph: what each tensor stores and what each consumer is given, under a policy for adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.adapters.price import Policy, flops_per_moved_element
from passes.graph.tensors import Mask, present, shape_of
from passes.ops import rules
from passes.planning.cheapest_storage import cheapest
from passes.planning.groundwork import Groundwork
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import NO_FLOOR, StorageFloor, StoragePlan


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a plan may do.

    adapters: `auto` restores constants at a consumer's input where that costs less than computing them; `always` takes
    adapters to cost nothing, so that the fewest FLOPs are left; `never` writes none: the producers compute what their
    consumers require. A tensor that is constant altogether is a constant operand in any case. frugal: no constant map
    is stored that takes more than the weights that make it. adds_maps: contractions may add the contribution of
    constant maps, as a map, instead of reading these channels. weighs_picks: channels that an operator cannot leave
    out, such as those along a Softmax, are picked behind it only where that costs less than to read them all.
    """

    adapters: Policy = "auto"
    frugal: bool = False
    adds_maps: bool = True
    weighs_picks: bool = False


class Planner:
    """Plans of one analysed graph, which have in common what is looked up of it once, and what nodes answered."""

    def __init__(self, graph: gs.Graph, facts: Facts) -> None:
        self.graph = graph
        self.facts = facts
        #: by whether slices may be made of their representatives, and whether picks are weighed
        self._groundwork: dict[tuple[bool, bool], Groundwork] = {}

    def plan(self, options: PlanOptions = PlanOptions(), floor: StorageFloor = NO_FLOOR) -> StoragePlan:
        """What each tensor stores: `floor` in any case, and more where no adapters may be written.

        Raises ValueError for a policy that there is not.
        """
        price = flops_per_moved_element(options.adapters)
        # a slice that is computed from its representative needs an adapter
        depends = bool(self.facts.dependence) and options.adapters != "never"
        kind = depends, options.weighs_picks
        if kind not in self._groundwork:
            known = self.facts if depends else replace(self.facts, dependence={})
            self._groundwork[kind] = Groundwork(self.graph, known, weighs_picks=options.weighs_picks)
        ground = self._groundwork[kind]
        facts = replace(ground.facts, adds_maps=options.adds_maps)
        while True:  # ends: what is stored only grows, and where all of it is nothing needs an adapter
            chosen = cheapest(ground, facts, price, floor, frugal=options.frugal)
            if options.adapters != "never":
                return chosen
            wider = _Widening(ground, chosen, floor).run()
            if wider is None:
                return chosen
            floor = wider


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

    def __init__(self, ground: Groundwork, plan: StoragePlan, floor: StorageFloor) -> None:
        self.ground = ground
        self.facts = ground.facts
        self.plan = plan
        self.floor = replace(floor, stored=dict(floor.stored), intact=set(floor.intact))
        self.stored = dict(plan.stored)
        self.grew = False

    def run(self) -> StorageFloor | None:
        """The floor with what takes the place of each adapter of the plan; None if that is nothing."""
        for node in self.ground.nodes:
            if node.index in self.plan.computed:
                for i, tensor, constant, axes in node.inputs:
                    if not constant and tensor.name not in self.plan.absent:
                        for axis, size, _ in axes:
                            key, asked = (tensor.name, axis), self.plan.required.get((node.index, i, axis))
                            stored = self.stored.get(key)
                            if asked is not stored or stored is not self.plan.stored.get(key):
                                self._visit(node.index, node.node, i, axis, size)
        for tensor in (*self.ground.graph.outputs, *self.ground.given):
            for axis, size in self.facts.axes(tensor):
                if (tensor.name, axis) in self.stored and tensor.name not in self.plan.absent:
                    self._store(tensor, axis, np.ones(size, bool))
        return self.floor if self.grew else None

    def _visit(self, index: int, node: gs.Node, i: int, axis: int, size: int) -> None:
        """Let an input and the outputs store what spares this node an adapter of it, along one axis."""
        key = node.inputs[i].name, axis
        tensor, whole = node.inputs[i], np.ones(size, bool)
        required = self.plan.required.get((index, i, axis), whole)
        if not required.any():
            return  # an operand that is left out
        stored = self.stored.get(key, whole)
        if (required & ~stored).any():
            self._store(tensor, axis, required)
        needless, unread = stored & ~required, self.plan.stored.get(key, whole) & ~required
        if needless.any():
            for output, a, mask in _reached(node, self.facts, i, axis, needless):
                self._store(output, a, mask)
        if unread.any():
            reached = [r for r in _reached(node, self.facts, i, axis, unread) if r[0].name not in self.plan.absent]
            if all(self.plan.stays(t.name, a, mask.size)[mask].all() for t, a, mask in reached):
                self._leave(index, node)  # its outputs store all that they could of this, and it does not read it

    def _store(self, tensor: gs.Tensor, axis: int, mask: Mask) -> None:
        key = tensor.name, axis
        before = self.floor.stored.get(key, np.zeros(mask.size, bool))
        self.floor.stored[key] = before | mask
        self.stored[key] = self.stored.get(key, np.ones(mask.size, bool)) | mask
        self.grew = self.grew or bool((mask & ~before).any())

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
