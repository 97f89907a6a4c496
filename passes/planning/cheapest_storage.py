"""What each tensor stores: its exact live set, and more only where that is cheaper than to restore constants.

One sweep from the outputs to the inputs. Every consumer says which slices it requires of a tensor; of the sets that
hold all of these that are not constant, the cheapest is stored, and what a consumer requires beyond it (constants,
always) an adapter restores at that consumer's input.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import Demand, Demands, Sets
from passes.adapters import price
from passes.cost.tokens_per_example import repeated
from passes.graph.tensors import Mask, all_set, any_set, is_constant, shape_of, volume
from passes.ops import UNKNOWN
from passes.planning.groundwork import Groundwork, Planned
from passes.rewriting.storage_plan import Cause, Key, Requirement, Settled, StorageFloor, StoragePlan

# Of so many different demands each is tried as the set to store; all of them would take quadratic time.
_TRIED = 16

_CALLER = -1


def cheapest(ground: Groundwork, flops_per_moved_element: float, floor: StorageFloor, *, frugal: bool) -> StoragePlan:
    """Choose the stored sets of a graph whose facts are known; `floor` is stored in any case.

    frugal: no constant map is stored that takes more than the weights that make it.
    """
    return _Sweep(ground, flops_per_moved_element, floor, frugal).run()


class _Sweep:
    def __init__(self, ground: Groundwork, flops_per_moved_element: float, floor: StorageFloor, frugal: bool) -> None:
        self.ground = ground
        self.graph = ground.graph
        self.facts = ground.facts
        self.flops_per_moved_element = flops_per_moved_element
        self.floor = floor
        self.frugal = frugal
        self._terms = flops_per_moved_element, frugal
        self.plan = StoragePlan()
        self.read: set[str] = set()  # what something reads, constants or not
        self.requirements: dict[Key, list[Requirement]] = defaultdict(list)
        self.whole: set[Key] = set()  # some consumer requires all slices, and none is constant

    def run(self) -> StoragePlan:
        for tensor in self.graph.outputs:
            reason = replace(kept_reasons.OUTPUT, words=f"{kept_reasons.OUTPUT.words} `{tensor.name}`")
            self._require_whole(tensor, _CALLER, 0, Cause(None, reason))
        for index in range(len(self.graph.nodes) - 1, -1, -1):
            self._visit(index, self.ground.nodes[index])
        made = {t.name for node in self.graph.nodes for t in node.outputs}
        operands = (t for node in self.graph.nodes for t in node.inputs if not is_constant(t))
        given = {t.name: t for t in [*self.graph.inputs, *operands] if t.name not in made}
        for tensor in given.values():  # a subgraph reads some from around it, too
            for axis, size in self.facts.axes(tensor):
                self._settle(tensor, axis, size)
        return self.plan

    # -- requirements --------------------------------------------------------------------------------------------

    def _require_whole(self, tensor: gs.Tensor, node: int, index: int, cause: Cause) -> None:
        self.read.add(tensor.name)
        for axis, size in self.facts.axes(tensor):
            if self.facts.constants(tensor, axis) is None:
                self.whole.add((tensor.name, axis))  # there is nothing to choose: all are stored
            else:
                requirement = Requirement(Demand(np.ones(size, bool)), node, index, cause)
                self.requirements[tensor.name, axis].append(requirement)

    def _require_inputs(self, index: int, planned: Planned, demands: Demands) -> None:
        """Note what the node requires of its operands; an axis that no demand speaks of is required whole."""
        no_demand = kept_reasons.NO_RULE if planned.op is UNKNOWN else kept_reasons.ALL_CHANNELS
        for i, tensor, constant, axes in planned.inputs:
            self.read.add(tensor.name)
            for axis, size, knows_constants in axes:
                demand = demands.get((i, axis))
                if constant:
                    if demand is not None and not all_set(demand.need):
                        self.plan.required[index, i, axis] = _not_empty(demand, np.ones(size, bool))
                elif not knows_constants and (demand is None or all_set(demand.need)):
                    self.whole.add((tensor.name, axis))
                else:
                    demand = demand or Demand(np.ones(size, bool), reason=no_demand)
                    times = planned.times
                    per_graph = demand if times == 1 else replace(demand, flops=demand.flops * times)
                    requirement = Requirement(per_graph, index, i, Cause(planned.node, demand.reason))
                    self.requirements[tensor.name, axis].append(requirement)

    # -- one node ------------------------------------------------------------------------------------------------

    def _visit(self, index: int, planned: Planned) -> None:
        """Choose what the outputs of a node store, all of whose consumers were visited, and note what it requires."""
        node = planned.node
        for tensor in planned.captured:
            self._require_whole(tensor, index, -1, Cause(node, kept_reasons.SUBGRAPH))
        read = [t for t in planned.outputs if t.name in self.read]
        if not read:
            self.plan.absent |= {t.name for t in planned.outputs}
            return
        asked = {(o, a): mask for o in range(len(node.outputs)) for a, mask in self._asked(planned, o).items()}
        absent = {node.outputs[o].name for (o, _), mask in asked.items() if not any_set(mask)}
        self.plan.absent |= absent
        if all(t.name in absent for t in read):
            self._store(node, asked)
            return
        self.plan.computed.add(index)
        stored, demands = planned.stored(asked, intact=index in self.floor.intact)
        self._store(node, stored)
        self._require_inputs(index, planned, demands)

    def _asked(self, planned: Planned, output: int) -> dict[int, Mask]:
        """By axis of an output, what it is to store if the operator can; what is absent is whole."""
        tensor = planned.node.outputs[output]
        axes = {a: size for a, size in self.facts.axes(tensor) if (tensor.name, a) not in self.whole}
        if tensor.name not in self.read:
            return {axis: np.zeros(size, bool) for axis, size in axes.items()}
        asked = {axis: self._choose(planned, output, axis, size) for axis, size in axes.items()}
        # a tensor that stores nothing along one axis stores nothing; one that has to be computed keeps a slice
        empty = [axis for axis, mask in asked.items() if not any_set(mask)]
        if empty and not any(self.ground.is_made_of_constants(tensor, axis) for axis in empty):
            for axis in empty:
                asked[axis] = asked[axis].copy()
                asked[axis][int(self._needed(tensor, axis, axes[axis]).argmax())] = True
        return asked

    def _store(self, node: gs.Node, sets: Sets) -> None:
        for output, tensor in enumerate(node.outputs):
            for axis, size in self.facts.axes(tensor):
                stored = sets.get((output, axis))
                if stored is not None and not all_set(stored):
                    self.plan.stored[tensor.name, axis] = stored
                self._settle(tensor, axis, size, stored)

    # -- one axis ------------------------------------------------------------------------------------------------

    def _needed(self, tensor: gs.Tensor, axis: int, size: int) -> Mask:
        """The slices that some consumer needs."""
        needs = [requirement.demand.need for requirement in self.requirements[tensor.name, axis]]
        return needs[0] if len(needs) == 1 else np.asarray(np.logical_or.reduce([np.zeros(size, bool), *needs]))

    def _choose(self, planned: Planned, output: int, axis: int, size: int) -> Mask:
        """The cheapest set that holds every slice which some consumer needs and which is not constant."""
        tensor = planned.node.outputs[output]
        requirements, floor = self.requirements[tensor.name, axis], self.floor.stored.get((tensor.name, axis))
        if not requirements:
            return np.ones(size, bool)
        demands = _distinct([requirement.demand for requirement in requirements])
        asked = tuple((demand.need.tobytes(), demand.flexible, demand.flops) for demand in demands)
        key = tensor.name, axis, asked, None if floor is None else floor.tobytes(), self._terms
        if key not in self.ground.chosen:
            self.ground.chosen[key] = self._cheapest(planned, output, axis, size, demands, floor)
        return self.ground.chosen[key]

    def _cheapest(
        self, planned: Planned, output: int, axis: int, size: int, demands: list[Demand], floor: Mask | None
    ) -> Mask:
        """The same, of what this alone depends on."""
        tensor = planned.node.outputs[output]
        needed = self._needed(tensor, axis, size)
        computed = needed & ~self._constant(tensor, axis, size)
        if floor is not None:
            computed |= floor
        dependence = self.facts.dependence.get((tensor.name, axis))
        least = computed if dependence is None else dependence.required(computed)
        if all_set(least) or (not any_set(least) and self.ground.is_made_of_constants(tensor, axis)):
            return least
        arriving = planned.arriving(output, axis, size)
        others = needed, *(live for _, _, live in arriving)
        if least is computed and not any(any_set(other & ~least) for other in others):
            return least  # no consumer needs more, and no more comes in
        tried = [demand.need for demand in demands[:_TRIED]]
        candidates: list[Mask] = [least, *(least | need for need in tried), least | needed]
        if least is not computed:  # slices that depend on others may be computed themselves
            candidates += [computed, *(computed | need for need in tried)]
        candidates += [least | live for _, _, live in arriving]  # what the producer's inputs store anyway
        different = list({candidate.tobytes(): candidate for candidate in candidates}.values())
        if len(different) == 1:
            return least
        flops_per_slice = self.ground.upstream.per_slice(tensor, axis)
        costly = ~planned.added(output, axis, size)

        def cost(stored: Mask) -> float:
            computing = np.count_nonzero(stored & costly) * flops_per_slice
            moving = functools.partial(self._moving, tensor, axis, stored)
            restoring = sum(price.at_input(stored, demand, dependence, moving) for demand in demands)
            narrowing = sum(self._moving(t, a, live, stored) for t, a, live in arriving if any_set(live & ~stored))
            return float(computing + restoring + narrowing)

        return np.array(min(different, key=cost))

    def _constant(self, tensor: gs.Tensor, axis: int, size: int) -> Mask:
        """Slices that need not be computed, as they can be stored as constants: bool [size]."""
        constant = self.facts.constant_mask(tensor, axis)
        uneven = self.facts.constant_map.get(tensor.name, {}).get(axis) if self.frugal else None
        if uneven is None or uneven.value[0].size <= self.facts.weights(tensor, axis):
            return constant
        return constant & ~uneven.mask  # the maps take more room than the weights that make them

    def _moving(self, tensor: gs.Tensor, axis: int, stored: Mask, required: Mask) -> float:
        """FLOPs that an adapter is worth which makes the required slices of those that are stored."""
        elements = volume(tensor) / required.size * repeated(tensor, self.ground.multiples)
        piece = price.piece_size(shape_of(tensor) or (), axis)
        return price.of_moving(stored, required, elements, piece, self.flops_per_moved_element)

    def _settle(self, tensor: gs.Tensor, axis: int, size: int, stored: Mask | None = None) -> None:
        """Fix what each consumer is given of what is stored (None: all)."""
        key = tensor.name, axis
        requirements = self.requirements.get(key)
        if not requirements:
            return
        stored = np.ones(size, bool) if stored is None else stored
        wider = stored & self.floor.wider[key] if key in self.floor.wider else None
        for requirement in requirements:
            given = self._given(tensor, axis, stored, wider, requirement.demand)
            if requirement.node != _CALLER and not all_set(given):
                self.plan.required[requirement.node, requirement.input, axis] = given
        self.plan.settled.append(Settled(tensor, axis, stored, requirements, wider, self.floor.why.get(key, "")))

    def _given(self, tensor: gs.Tensor, axis: int, stored: Mask, wider: Mask | None, demand: Demand) -> Mask:
        """The slices that a consumer finds: those that it needs, or all that are stored if reading them costs less."""
        need = demand.need
        if demand.flexible and any_set(stored) and not any_set(need & ~stored):
            unneeded = stored & ~need if wider is None else stored & ~need & ~wider
            needless = demand.flops * float(np.count_nonzero(unneeded))
            reads_all = not any_set(need) or needless <= self._moving(tensor, axis, stored, need)
            return stored if reads_all else need
        return _not_empty(demand, stored)


def _not_empty(demand: Demand, stored: Mask) -> Mask:
    """The slices that are needed, or one of those stored: an axis of size zero is not left, but where it may be."""
    if any_set(demand.need) or demand.optional:
        return demand.need
    need = demand.need.copy()
    need[int(stored.argmax())] = True
    return need


def _distinct(demands: list[Demand]) -> list[Demand]:
    """Equal demands as one: they share an adapter, and each pays for what it reads without need."""
    found: dict[tuple[bytes, bool], Demand] = {}
    for demand in demands:
        key = demand.need.tobytes(), demand.flexible
        same = found.get(key)
        found[key] = demand if same is None else replace(demand, flops=same.flops + demand.flops)
    return list(found.values())
