"""What each tensor stores: its exact live set, and more only where that is cheaper than putting constants back.

One sweep from the outputs to the inputs. Every consumer says what it must see of a tensor; of the sets that hold all
slices that are not constant, the cheapest is stored, and what a consumer must see beyond it (constants, always) is put
back at its door by an adapter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Demand, Sets
from passes.adapters import price
from passes.cost.per_example import multiples, repeated
from passes.graph.subgraphs import captured
from passes.graph.tensors import Dim, Index, Mask, all_set, any_set, describe, is_constant, present, shape_of, volume
from passes.ops import UNKNOWN, rules
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, StorageFloor, StoragePlan

# Of so many different demands each is tried as the set to store; all of them would take quadratic time.
_TRIED = 16


@dataclass(eq=False)
class _Claim:
    """A demand, and who makes it. `node` -1 is the caller of the graph."""

    demand: Demand
    node: int
    input: int
    why: Index


def cheapest(
    graph: gs.Graph, facts: Facts, flops_per_moved_element: float, floor: StorageFloor, *, frugal: bool
) -> StoragePlan:
    """Choose the stored sets of a graph whose facts are known; `floor` is stored in any case.

    frugal: no constant map is stored that takes more than the weights that make it.
    """
    return _Planner(graph, facts, flops_per_moved_element, floor, frugal).run()


class _Planner:
    def __init__(self, graph: gs.Graph, facts: Facts, rate: float, floor: StorageFloor, frugal: bool) -> None:
        self.graph = graph
        self.facts = facts
        self.rate = rate
        self.floor = floor
        self.frugal = frugal
        self.layout = StoragePlan()
        self.claims: dict[Key, list[_Claim]] = defaultdict(list)
        self.full: set[Key] = set()  # some consumer needs all slices, and none is constant
        self.wanted: set[str] = set()
        self.producer = {t.name: n for n in graph.nodes for t in n.outputs}
        self.units: dict[Key, float] = {}
        self.multiples = multiples(graph)
        self.symbols = {d for t in graph.inputs for d in shape_of(t) or () if isinstance(d, str)}

    def run(self) -> StoragePlan:
        for tensor in self.graph.outputs:
            why = self._reason("the caller", "output", f"takes the graph output `{tensor.name}` whole")
            self._claim_whole(tensor, -1, 0, why)
        for index in range(len(self.graph.nodes) - 1, -1, -1):
            self._visit(index, self.graph.nodes[index])
        read = (t for n in self.graph.nodes for t in n.inputs if t.name not in self.producer and not is_constant(t))
        for tensor in {t.name: t for t in [*self.graph.inputs, *read]}.values():  # a subgraph reads others, too
            for axis in range(len(shape_of(tensor) or ())):
                if self.claims.get((tensor.name, axis)):
                    self._settle(tensor, axis, None)
        return self.layout

    def _reason(self, node: str, op: str, text: str) -> int:
        self.layout.reasons.append((node, op, text))
        return len(self.layout.reasons) - 1

    def _claim_whole(self, tensor: gs.Tensor, node: int, index: int, why: int) -> None:
        self.wanted.add(tensor.name)
        for axis in range(len(shape_of(tensor) or ())):
            size = self.facts.size(tensor, axis)
            if size:
                self._claim_axis(tensor, axis, node, index, why)

    def _claim_axis(self, tensor: gs.Tensor, axis: int, node: int, index: int, why: int) -> None:
        """Claim all slices along the axis."""
        if self.facts.constants(tensor, axis) is None:  # there is nothing to choose: all are stored
            self.full.add((tensor.name, axis))
            return
        size = self.facts.size(tensor, axis) or 0
        claim = _Claim(Demand(np.ones(size, bool)), node, index, np.full(size, why))
        self.claims[tensor.name, axis].append(claim)

    # -- one node ------------------------------------------------------------------------------------------------

    def _visit(self, index: int, node: gs.Node) -> None:
        for tensor in captured(node):
            self._claim_whole(tensor, index, -1, self._reason(describe(node), node.op, "reads it inside a subgraph"))
        outputs = [t for t in node.outputs if not t.is_empty()]
        if not any(t.name in self.wanted for t in outputs):
            self.layout.absent |= {t.name for t in outputs}
            return
        op = rules(node)
        asked: Sets = {}
        for o, tensor in enumerate(node.outputs):
            for axis in range(len(shape_of(tensor) or ())):
                size = self.facts.size(tensor, axis)
                if not size or (tensor.name, axis) in self.full:
                    continue
                wanted = tensor.name in self.wanted
                asked[o, axis] = self._choose(tensor, axis, node) if wanted else np.zeros(size, bool)
        for o, tensor in enumerate(node.outputs):
            self._make_consistent(tensor, o, asked)
        absent = {t.name for o, t in enumerate(node.outputs) if self._absent(o, asked)}
        self.layout.absent |= absent
        if all(t.name in absent for t in outputs if t.name in self.wanted):
            for o, tensor in enumerate(node.outputs):
                self._store(tensor, {a: m for (i, a), m in asked.items() if i == o})
            return
        intact = index in self.floor.intact
        narrowed = {} if intact else {key: mask for key, mask in asked.items() if not all_set(mask)}
        stored = {
            key: mask for key, mask in op.storable_outputs(node, self.facts, narrowed).items() if not all_set(mask)
        }
        for o, tensor in enumerate(node.outputs):
            self._store(tensor, {a: m for (i, a), m in stored.items() if i == o})
        self.layout.computed.add(index)
        demands = {} if intact else op.required_inputs(node, self.facts, stored)
        unknown = self._reason(
            describe(node),
            node.op,
            "has no rule that would let channels go" if op is UNKNOWN else "needs the whole axis",
        )
        for i, tensor in present(node.inputs):
            self.wanted.add(tensor.name)
            for axis in range(len(shape_of(tensor) or ())):
                size = self.facts.size(tensor, axis)
                if not size:
                    continue
                demand = demands.get((i, axis))
                if demand is None:
                    if not is_constant(tensor):
                        self._claim_axis(tensor, axis, index, i, unknown)
                    continue
                if is_constant(tensor):
                    if not all_set(demand.need):
                        self.layout.required[index, i, axis] = demand.need
                    continue
                if all_set(demand.need) and self.facts.constants(tensor, axis) is None:
                    self.full.add((tensor.name, axis))
                    continue
                times = repeated(node.outputs[0], self.multiples)
                demand = demand if times == 1 else replace(demand, flops=demand.flops * times)
                claim = _Claim(demand, index, i, self._why(node, demand, size))
                self.claims[tensor.name, axis].append(claim)

    def _why(self, node: gs.Node, demand: Demand, size: int) -> Index:
        own = np.full(size, self._reason(describe(node), node.op, demand.reason))
        if demand.echo is None:
            return own
        output, axis = node.outputs[demand.echo[0]], demand.echo[1]
        passed, known = self.layout.reason.get((output.name, axis)), self.facts.known(output, axis)
        source = np.arange(size) if demand.order is None else demand.order
        if passed is None or known is None or passed.size != source.size:
            return own
        # what is constant behind this operator too is held further on; the rest is held here
        held = known.mask & (passed >= 0)
        own[source[held]] = passed[held]
        return own

    def _store(self, tensor: gs.Tensor, sets: dict[int, Mask]) -> None:
        for axis in range(len(shape_of(tensor) or ())):
            mask = sets.get(axis)
            if mask is not None and not all_set(mask):
                self.layout.stored[tensor.name, axis] = mask
            self._settle(tensor, axis, mask)

    @staticmethod
    def _absent(output: int, asked: Sets) -> bool:
        return any(not any_set(mask) for (o, _), mask in asked.items() if o == output)

    def _make_consistent(self, tensor: gs.Tensor, output: int, asked: Sets) -> None:
        """A tensor that stores nothing along one axis stores nothing; if it cannot vanish it keeps one slice."""
        empty = [axis for (o, axis), mask in asked.items() if o == output and not any_set(mask)]
        if not empty or tensor.name not in self.wanted:
            return
        if not any(self._can_vanish(tensor, axis) for axis in empty):
            for axis in empty:
                needs = [c.demand.need for c in self.claims[tensor.name, axis]]
                need = np.logical_or.reduce(needs) if needs else np.zeros(asked[output, axis].size, bool)
                asked[output, axis][int(need.argmax())] = True

    def _can_vanish(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether the tensor can be made from constants alone: its other sizes are known or those of graph inputs."""
        shape: tuple[Dim, ...] = shape_of(tensor) or ()
        return all(isinstance(d, int) or d in self.symbols for a, d in enumerate(shape) if a != axis)

    # -- one axis ------------------------------------------------------------------------------------------------

    def _choose(self, tensor: gs.Tensor, axis: int, node: gs.Node) -> Mask:
        """The cheapest set that holds every slice which some consumer needs and which is not constant."""
        claims = self.claims[tensor.name, axis]
        size = self.facts.size(tensor, axis) or 0
        if not claims:
            return np.ones(size, bool)
        constant = self.facts.constants(tensor, axis)
        constant = np.zeros(size, bool) if constant is None else constant
        if self.frugal:
            constant = constant & ~self._bulky(tensor, axis, size)
        asked = np.asarray(np.logical_or.reduce([c.demand.need for c in claims]) & ~constant)
        asked |= self.floor.stored.get((tensor.name, axis), np.zeros(size, bool))
        dependence = self.facts.dependence.get((tensor.name, axis))
        must = asked if dependence is None else dependence.required(asked)
        if all_set(must):
            return must
        arriving = list(self._arriving(node, _position(node, tensor), axis, size))
        union = must | np.logical_or.reduce([c.demand.need for c in claims])
        if must is asked and not any(any_set(held & ~must) for held in (union, *(held for _, _, held in arriving))):
            return must  # nobody needs more, and nothing more comes in
        demands = _distinct([c.demand for c in claims])
        tried = demands[:_TRIED]
        candidates = [must, *(must | d.need for d in tried), union]
        if must is not asked:  # what follows from others may be computed itself
            candidates += [asked, *(asked | d.need for d in tried)]
        candidates += [must | held for _, _, held in arriving]  # what the producer's inputs hold anyway
        different: dict[bytes, Mask] = {}
        for candidate in candidates:
            different.setdefault(candidate.tobytes(), candidate)
        best, best_cost = must, float("inf")
        if len(different) > 1:
            unit, added = self._unit(tensor, axis), self._added(node, tensor, axis, size)
            for candidate in different.values():
                cost = (candidate & ~added).sum() * unit + sum(
                    self._at_input(tensor, axis, candidate, d) for d in demands
                )
                cost += self._inlets(arriving, candidate)
                if cost < best_cost and (any_set(candidate) or not any_set(best)):
                    best, best_cost = candidate, cost
        if not any_set(must) and self._can_vanish(tensor, axis):
            return must
        return best.copy()

    def _bulky(self, tensor: gs.Tensor, axis: int, size: int) -> Mask:
        """Slices along the axis whose constant maps take more room than the weights that make them."""
        uneven = self.facts.constant_map.get(tensor.name, {}).get(axis)
        if uneven is None or uneven.value[0].size <= self.facts.weights(tensor, axis):
            return np.zeros(size, bool)
        return uneven.mask

    def _added(self, node: gs.Node, tensor: gs.Tensor, axis: int, size: int) -> Mask:
        """Slices that a mover of data adds on its own, as padding: nothing upstream is computed for them."""
        output = _position(node, tensor)
        links = [k for k in self.facts.links(node) if (k.output, k.output_axis) == (output, axis)]
        sources = [k.source for k in links if k.source is not None and not k.split]
        if not rules(node).moves or not links or len(sources) < len(links):
            return np.zeros(size, bool)
        return np.asarray(np.logical_and.reduce([source < 0 for source in sources]))

    def _moving(self, tensor: gs.Tensor, axis: int, stored: Mask, need: Mask) -> float:
        """Cost of an adapter that delivers these slices of what is stored."""
        elements = volume(tensor) / need.size * repeated(tensor, self.multiples)
        piece = price.piece_size(shape_of(tensor) or (), axis)
        return price.of_moving(stored, need, elements, piece, self.rate)

    def _at_input(self, tensor: gs.Tensor, axis: int, stored: Mask, demand: Demand) -> float:
        """Cost of one consumer's input, when this is stored."""
        dependence = self.facts.dependence.get((tensor.name, axis))
        return price.at_input(stored, demand, dependence, self._moving(tensor, axis, stored, demand.need))

    def _inlets(self, arriving: list[tuple[gs.Tensor, int, Mask]], stored: Mask) -> float:
        """Cost of narrowing what the producer reads, where its inputs hold more for others anyway."""
        return sum((self._moving(t, a, held, stored) for t, a, held in arriving if any_set(held & ~stored)), 0.0)

    def _arriving(self, node: gs.Node, output: int, axis: int, size: int) -> Iterator[tuple[gs.Tensor, int, Mask]]:
        """Inputs and axes as wide as the output, with the output slices that come from what is live there."""
        for i, a in rules(node).carries(node, self.facts, output, axis):
            source = node.inputs[i]
            if is_constant(source) or self.facts.size(source, a) != size:
                continue
            live = self.facts.live(source, a)
            dependence = self.facts.dependence.get((source.name, a))
            if dependence is not None:  # any of these slices could have been the representative
                live = live.copy()
                live[dependence.reps] = False
            for link in self.facts.links(node):
                if (link.input, link.input_axis, link.output, link.output_axis) == (i, a, output, axis):
                    live = live if link.source is None or link.split else live[link.source] & (link.source >= 0)
            yield source, a, live

    def _unit(self, tensor: gs.Tensor, axis: int) -> float:
        """FLOPs of computing one more slice, with what that needs upstream."""
        waiting = [(tensor, axis)]
        while waiting:  # a chain may be longer than Python likes to call itself
            current, a = waiting[-1]
            node, size = self.producer.get(current.name), self.facts.size(current, a)
            upstream: list[tuple[gs.Tensor, int]] = []
            if node is not None and size:
                carried = rules(node).carries(node, self.facts, _position(node, current), a)
                upstream = [(node.inputs[i], b) for i, b in carried if not is_constant(node.inputs[i])]
            missing = [(t, b) for t, b in upstream if (t.name, b) not in self.units]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            own = 0.0
            if node is not None and size:
                own = rules(node).cost(node)[0] / size * self._density(node) * repeated(current, self.multiples)
            # branches that meet again share what is before them: the dearest one stands for all
            self.units[current.name, a] = own + max((self.units[t.name, b] for t, b in upstream), default=0.0)
        return self.units[tensor.name, axis]

    def _density(self, node: gs.Node) -> float:
        """Share of the first input that is live along its emptiest axis: a contraction sums over no more."""
        tensor = node.inputs[0] if node.inputs else None
        if tensor is None or is_constant(tensor) or not rules(node).cost(node)[1]:
            return 1.0
        shares = [
            float(self.facts.live(tensor, a).mean())
            for a in range(len(shape_of(tensor) or ()))
            if self.facts.size(tensor, a)
        ]
        return min(shares, default=1.0)

    def _settle(self, tensor: gs.Tensor, axis: int, stored: Mask | None) -> None:
        """Fix what each consumer sees, now that it is known what is stored, and say what holds constants."""
        claims = self.claims.get((tensor.name, axis), [])
        size = self.facts.size(tensor, axis)
        if not claims or not size:
            return
        held = np.ones(size, bool) if stored is None else stored
        wider = self._wider(tensor, axis, held)
        why = self._widened(tensor, axis, wider)
        for claim in claims:
            demand = claim.demand
            need = demand.need
            if demand.flexible and any_set(held) and not any_set(need & ~held):
                extra = demand.flops * float(np.count_nonzero(held & ~need & ~wider))
                if not any_set(need) or extra <= self._moving(tensor, axis, held, need):
                    need = held
            elif not any_set(need) and not demand.optional:
                need = need.copy()  # an axis of size zero is never left
                need[int(held.argmax())] = True
            why = np.where((why < 0) & claim.demand.need, claim.why, why)
            if claim.node >= 0 and not all_set(need):
                self.layout.required[claim.node, claim.input, axis] = need
        if tensor.inputs and any_set(held & (why < 0)):
            node = tensor.inputs[0]
            own = self._reason(
                describe(node), node.op, "writes it along with the channels that are needed, which costs less"
            )
            why = np.where(why < 0, own, why)
        self.layout.reason[tensor.name, axis] = np.where(held, why, -1)

    def _wider(self, tensor: gs.Tensor, axis: int, held: Mask) -> Mask:
        """What is stored along the axis for the sake of its width: bool [size]."""
        wider = self.floor.wider.get((tensor.name, axis))
        return np.zeros(held.size, bool) if wider is None else held & wider

    def _widened(self, tensor: gs.Tensor, axis: int, wider: Mask) -> Index:
        """The index of the reason for these slices, -1 for the others."""
        if not any_set(wider) or not tensor.inputs:
            return np.full(wider.size, -1)
        node = tensor.inputs[0]
        number = self._reason(describe(node), node.op, self.floor.why[tensor.name, axis])
        self.layout.aligned.add(number)
        return np.where(wider, number, -1)


def _distinct(demands: list[Demand]) -> list[Demand]:
    """Equal demands as one: they share an adapter, and each pays for what it reads without need."""
    found: dict[tuple[bytes, bool], Demand] = {}
    for demand in demands:
        key = demand.need.tobytes(), demand.flexible
        flops = found[key].flops if key in found else 0.0
        found[key] = replace(demand, flops=flops + demand.flops)
    return list(found.values())


def _position(node: gs.Node, tensor: gs.Tensor) -> int:
    return next(i for i, t in enumerate(node.outputs) if t is tensor)
