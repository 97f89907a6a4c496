"""Groundwork of plans: look-ups that all plans of one analysed graph share."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import Demand, Demands, Sets
from passes.adapters.price import piece_size
from passes.graph.subgraphs import captured
from passes.graph.tensors import Mask, bits, is_constant, mask_of, present, shape_of, volume
from passes.ops import UNKNOWN, rules
from passes.ops.movement import Movement
from passes.planning.upstream_cost import UpstreamCost
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Cause, Key, Requirement
from passes.sizes.tokens_per_example import multiples, repeated

#: in place of a node's index: the caller of the model
CALLER = -1


@dataclass(frozen=True)
class Asked:
    """What a consumer asks of tensors: that they are there, of which axes all slices, and of which axes what.

    required: what it is given of constant operands, as in `StoragePlan`.
    """

    read: set[str] = field(default_factory=set)
    whole: set[Key] = field(default_factory=set)
    requirements: list[tuple[Key, Requirement]] = field(default_factory=list)
    required: dict[tuple[int, int, int], Mask] = field(default_factory=dict)

    def whole_tensor(self, tensor: gs.Tensor, facts: Facts, node: int, index: int, cause: Cause) -> None:
        """Ask for all of a tensor."""
        self.read.add(tensor.name)
        for axis, size in facts.axes(tensor):
            if facts.constants(tensor, axis) is None:
                self.whole.add((tensor.name, axis))  # there is nothing to choose: all are stored
            else:
                requirement = Requirement(Demand(np.ones(size, bool)), node, index, cause)
                self.requirements.append(((tensor.name, axis), requirement))


class Groundwork:
    """A graph with its facts, and what plans of it found out.

    given: tensors that no node makes; a subgraph reads some from around it, too. by_caller: what the caller asks.
    weighs_picks: as in `PlanOptions`.
    """

    def __init__(self, graph: gs.Graph, facts: Facts, *, weighs_picks: bool = False) -> None:
        self.graph = graph
        self.facts = facts
        self.multiples = multiples(graph, facts)
        self.upstream = UpstreamCost(graph, facts, self.multiples)
        self.nodes: list[PlannedNode] = []
        undivided: dict[Key, Mask] = {}
        for index, node in enumerate(graph.nodes):
            self.nodes.append(PlannedNode(index, node, facts, self.multiples, undivided))
            if weighs_picks:
                undivided |= self.nodes[-1].undivided()
        made = {t.name for node in graph.nodes for t in node.outputs}
        operands = (t for node in self.nodes for _, t, constant, _ in node.inputs if not constant)
        self.given = [*{t.name: t for t in [*graph.inputs, *operands] if t.name not in made}.values()]
        self.by_caller = Asked()
        for tensor in graph.outputs:
            reason = replace(kept_reasons.OUTPUT, words=f"{kept_reasons.OUTPUT.words} `{tensor.name}`")
            self.by_caller.whole_tensor(tensor, facts, CALLER, 0, Cause(None, reason))
        self._symbols = {d for t in graph.inputs for d in shape_of(t) or () if isinstance(d, str)}

    def slice_sizes(self, tensor: gs.Tensor, axis: int) -> tuple[float, int]:
        """Elements of a slice along the axis, for one example, and how many of them lie together."""
        elements = volume(tensor) / (self.facts.size(tensor, axis) or 1) * repeated(tensor, self.multiples)
        return elements, piece_size(shape_of(tensor) or (), axis)

    def is_made_of_constants(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether constants along the axis make the tensor: its other sizes are known or those of graph inputs."""
        others = [d for a, d in enumerate(shape_of(tensor) or ()) if a != axis]
        return all(isinstance(d, int) or d in self._symbols for d in others)


class PlannedNode:
    """A node to be planned, with its operator and operands.

    names: those of its outputs. outputs: each with its axes: number, size and key. inputs: of each operand its place,
    the tensor, whether it is a constant, and its axes: number, size, and whether constants are known along it. times:
    how many examples its cost is to be taken for. reads_maps: whether what it asks may depend on `Facts.adds_maps`.
    before: what the nodes before it return as `undivided`.
    """

    def __init__(
        self, index: int, node: gs.Node, facts: Facts, found: Mapping[str, int], before: Mapping[Key, Mask]
    ) -> None:
        self.index, self.node, self.op = index, node, rules(node)
        self.names = {t.name for t in node.outputs if not t.is_empty()}
        self.outputs = [(t, [(a, size, (t.name, a)) for a, size in facts.axes(t)]) for t in node.outputs]
        self.inputs = [
            (i, t, is_constant(t), [(a, size, facts.constants(t, a) is not None) for a, size in facts.axes(t)])
            for i, t in present(node.inputs)
        ]
        self.times = repeated(node.outputs[0], found)
        self.reads_maps = any(t.name in facts.constant_map for t in node.inputs)
        self._facts, self._before = facts, before
        self._answers: dict[Hashable, tuple[Sets, Asked]] = {}
        self._arriving: dict[tuple[int, int], list[tuple[gs.Tensor, int, int]]] = {}
        self.captured: Asked | None = None  # what subgraphs ask for, whether or not the node is computed
        for tensor in captured(node):
            self.captured = self.captured or Asked()
            self.captured.whole_tensor(tensor, facts, index, -1, Cause(node, kept_reasons.SUBGRAPH))

    def answer(self, asked: Sets, facts: Facts, *, intact: bool) -> tuple[Sets, Asked]:
        """What the outputs store when this is asked of them, and what that asks of the operands.

        facts: those of the groundwork, but for `adds_maps`. intact: the node is left as it is.
        """
        key = intact, facts.adds_maps or not self.reads_maps, *((*at, mask.tobytes()) for at, mask in asked.items())
        if key not in self._answers:
            self._answers[key] = self._answer(asked, facts, intact=intact)
        return self._answers[key]

    def _answer(self, asked: Sets, facts: Facts, *, intact: bool) -> tuple[Sets, Asked]:
        stored = narrowed(self.op.storable_outputs(self.node, facts, {} if intact else narrowed(asked)))
        demands = {} if intact else self.op.required_inputs(self.node, facts, stored)
        return stored, self._asked(demands)

    def _asked(self, demands: Demands) -> Asked:
        """What the node requires of its operands; an axis that no demand speaks of is required whole."""
        no_demand = kept_reasons.NO_RULE if self.op is UNKNOWN else kept_reasons.ALL_CHANNELS
        asked = Asked()
        for i, tensor, constant, axes in self.inputs:
            asked.read.add(tensor.name)
            for axis, size, knows_constants in axes:
                demand = demands.get((i, axis))
                if constant:
                    if demand is not None and not demand.need.all():
                        asked.required[self.index, i, axis] = not_empty(demand, np.ones(size, bool))
                elif not knows_constants and (demand is None or demand.need.all()):
                    asked.whole.add((tensor.name, axis))
                else:
                    demand = demand or Demand(np.ones(size, bool), reason=no_demand)
                    flops = demand.flops * self.times
                    per_graph = demand if flops == demand.flops else replace(demand, flops=flops)
                    requirement = Requirement(per_graph, self.index, i, Cause(self.node, demand.reason))
                    asked.requirements.append(((tensor.name, axis), requirement))
        return asked

    def arriving(self, output: int, axis: int, size: int) -> list[tuple[gs.Tensor, int, int]]:
        """Inputs and axes as wide as the output, with the output slices that come from what is live there: `bits`."""
        if (output, axis) not in self._arriving:
            self._arriving[output, axis] = list(self._live(output, axis, size))
        return self._arriving[output, axis]

    def undivided(self) -> dict[Key, Mask]:
        """Slices of outputs that the operator stores though nothing reads them, by tensor and axis.

        All of them behind a Softmax along the axis, or where a recurrent layer reads each in its next round; and what
        comes of these in operators that only hand them on.
        """
        facts = self._facts
        outputs = [(o, *axis, facts.live(t, axis[0])) for o, (t, axes) in enumerate(self.outputs) for axis in axes]
        if all(live.all() for *_, live in outputs):
            return {}
        sets = self.op.storable_outputs(self.node, facts, {(o, axis): live for o, axis, _, _, live in outputs})
        found: dict[Key, Mask] = {}
        for output, axis, size, key, live in outputs:
            stored = sets.get((output, axis), np.ones(size, bool))
            for *_, arriving in self.arriving(output, axis, size):
                stored = stored | mask_of(arriving, size)
            for link in facts.links(self.node):
                before = self._before.get((self.node.inputs[link.input].name, link.input_axis))
                if before is not None and (link.output, link.output_axis) == (output, axis):
                    stored = stored | link.forward(before, size)
            if live.any() and (stored & ~live).any():
                found[key] = stored
        return found

    def _live(self, output: int, axis: int, size: int) -> Iterator[tuple[gs.Tensor, int, int]]:
        node, facts = self.node, self._facts
        for i, a in self.op.carries(node, facts, output, axis):
            source = node.inputs[i]
            if is_constant(source) or facts.size(source, a) != size:
                continue
            live = facts.live(source, a)
            dependence = facts.dependence.get((source.name, a))
            if dependence is not None:  # any of these slices could have been the representative
                live = live.copy()
                live[dependence.reps] = False
            undivided = self._before.get((source.name, a))
            if undivided is not None:
                live = live | undivided
            for link in facts.links(node):
                if (link.input, link.input_axis, link.output, link.output_axis) == (i, a, output, axis):
                    live = link.forward(live, size)
            yield source, a, bits(live)

    def added(self, output: int, axis: int, size: int) -> int:
        """Slices that a mover of data adds on its own, as padding: nothing upstream is computed for them. `bits`."""
        if not isinstance(self.op, Movement):
            return 0
        links = [k for k in self._facts.links(self.node) if (k.output, k.output_axis) == (output, axis)]
        if not links:
            return 0
        sizes = [self._facts.size(self.node.inputs[k.input], k.input_axis) or 0 for k in links]
        moved = [k.forward(np.ones(n, bool), size) for k, n in zip(links, sizes, strict=True)]
        return bits(~np.logical_or.reduce(moved))


def not_empty(demand: Demand, stored: Mask) -> Mask:
    """The slices that are needed, or one of those stored: an axis of size zero is not left, but where it may be."""
    if demand.need.any() or demand.optional:
        return demand.need
    need = demand.need.copy()
    need[int(stored.argmax())] = True
    return need


def narrowed(sets: Sets) -> Sets:
    """Those that are not whole."""
    return {key: mask for key, mask in sets.items() if not mask.all()}
