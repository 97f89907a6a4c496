"""Cheapest storage of a tensor: its exact live set, and more only where that is cheaper than restoring constants.

One sweep from the outputs to the inputs. Every consumer says which slices it requires of a tensor; of the sets that
hold all of these that are not constant, the cheapest is stored, and what a consumer requires beyond it (constants,
always) an adapter restores at that consumer's input.
"""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Demand, Sets
from passes.adapters import price
from passes.graph.tensors import Mask, bits, mask_of
from passes.planning.groundwork import CALLER, Asked, Groundwork, PlannedNode, not_empty
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, Requirement, Settled, StorageFloor, StoragePlan

# Of so many different demands each is tried as the set to store; all of them would take quadratic time.
_TRIED = 16


def cheapest(
    ground: Groundwork, facts: Facts, flops_per_moved_element: float, floor: StorageFloor, *, frugal: bool
) -> StoragePlan:
    """Choose the stored sets of a graph whose facts are known; `floor` is stored in any case.

    facts: those of the groundwork, but for `adds_maps`. frugal: no constant map is stored that takes more than the
    weights that make it.
    """
    return _Sweep(ground, facts, flops_per_moved_element, floor, frugal, StoragePlan(floor=floor)).run()


@dataclass
class _Sweep:
    """A plan in the making.

    read: what something reads, constants or not. whole: what some consumer requires all of, and none is constant.
    """

    ground: Groundwork
    facts: Facts
    flops_per_moved_element: float
    floor: StorageFloor
    frugal: bool
    plan: StoragePlan
    read: set[str] = field(default_factory=set)
    requirements: dict[Key, list[Requirement]] = field(default_factory=lambda: defaultdict(list))
    whole: set[Key] = field(default_factory=set)

    def run(self) -> StoragePlan:
        self._ask(self.ground.by_caller)
        for node in reversed(self.ground.nodes):
            if node.captured is not None:
                self._ask(node.captured)
            self._visit(node)
        inputs = {tensor.name for tensor in self.ground.graph.inputs}
        for tensor in self.ground.given:
            for axis, size in self.facts.axes(tensor):
                self._settle(tensor, axis, size, None if tensor.name in inputs else self._captured(tensor, axis, size))
        return self.plan

    def _captured(self, tensor: gs.Tensor, axis: int, size: int) -> Mask | None:
        """The slices of a tensor around a subgraph that it reads, which are picked there; None for all."""
        key = tensor.name, axis
        needed = mask_of(self._needed(tensor, axis), size) | self.floor.stored.get(key, np.zeros(size, bool))
        if key in self.whole or needed.all() or not needed.any():
            return None
        self.plan.stored[key] = needed
        return needed

    def _visit(self, node: PlannedNode) -> None:
        """Choose what the outputs of a node store, all of whose consumers were visited, and note what it requires."""
        read = node.names & self.read
        if not read:
            self.plan.absent |= node.names
            return
        asked = {(o, a): mask for o in range(len(node.outputs)) for a, mask in self._asked(node, o).items()}
        absent = {node.outputs[o][0].name for (o, _), mask in asked.items() if not mask.any()}
        self.plan.absent |= absent
        if read <= absent:
            self._store(node, asked)
            return
        self.plan.computed.add(node.index)
        stored, required = node.answer(asked, self.facts, intact=node.index in self.floor.intact)
        self._store(node, stored)
        self._ask(required)

    def _ask(self, asked: Asked) -> None:
        self.read |= asked.read
        self.whole |= asked.whole
        self.plan.required.update(asked.required)
        for key, requirement in asked.requirements:
            self.requirements[key].append(requirement)

    def _asked(self, node: PlannedNode, output: int) -> dict[int, Mask]:
        """By axis of an output, what it is to store if the operator can; what is absent is whole."""
        tensor, axes_of = node.outputs[output]
        axes = {a: size for a, size, key in axes_of if key not in self.whole}
        if tensor.name not in self.read:
            return {axis: np.zeros(size, bool) for axis, size in axes.items()}
        asked = {axis: self._choose(node, output, axis, size) for axis, size in axes.items()}
        # a tensor that stores nothing along one axis stores nothing; one that has to be computed keeps a slice
        empty = [axis for axis, mask in asked.items() if not mask.any()]
        if empty and not any(self.ground.is_made_of_constants(tensor, axis) for axis in empty):
            for axis in empty:
                asked[axis] = asked[axis].copy()
                asked[axis][int(mask_of(self._needed(tensor, axis), axes[axis]).argmax())] = True
        return asked

    def _store(self, node: PlannedNode, sets: Sets) -> None:
        for output, (tensor, axes) in enumerate(node.outputs):
            for axis, size, key in axes:
                stored = sets.get((output, axis))
                if stored is not None and not stored.all():
                    self.plan.stored[key] = stored
                self._settle(tensor, axis, size, stored)

    def _needed(self, tensor: gs.Tensor, axis: int) -> int:
        """The slices that some consumer needs, as `bits`."""
        needs = [requirement.demand.bits for requirement in self.requirements[tensor.name, axis]]
        return functools.reduce(operator.or_, needs, 0)

    def _choose(self, node: PlannedNode, output: int, axis: int, size: int) -> Mask:
        """The cheapest set that holds every slice which some consumer needs and which is not constant."""
        tensor = node.node.outputs[output]
        requirements, floor = self.requirements[tensor.name, axis], self.floor.stored.get((tensor.name, axis))
        if not requirements:
            return np.ones(size, bool)
        needed = self._needed(tensor, axis)
        computed = needed & ~bits(self._constant(tensor, axis, size)) | (0 if floor is None else bits(floor))
        dependence = self.facts.dependence.get((tensor.name, axis))
        least = computed if dependence is None else bits(dependence.required(mask_of(computed, size)))
        if least.bit_count() == size or (not least and self.ground.is_made_of_constants(tensor, axis)):
            return mask_of(least, size)
        arriving = node.arriving(output, axis, size)
        if least == computed and not any(other & ~least for other in (needed, *(live for _, _, live in arriving))):
            return mask_of(least, size)  # no consumer needs more, and no more comes in
        demands = _distinct([requirement.demand for requirement in requirements])
        candidates = [least, *(least | demand.bits for demand in demands[:_TRIED]), least | needed]
        if least != computed:  # slices that depend on others may be computed themselves
            candidates += [computed, *(computed | demand.bits for demand in demands[:_TRIED])]
        candidates += [least | live for _, _, live in arriving]  # what the producer's inputs store anyway
        different = list(dict.fromkeys(candidates))
        if len(different) == 1:
            return mask_of(least, size)
        return mask_of(min(different, key=self._cost(node, output, axis, size, demands)), size)

    def _cost(
        self, node: PlannedNode, output: int, axis: int, size: int, demands: Sequence[Demand]
    ) -> Callable[[int], float]:
        """FLOPs that storing these slices (`bits`) takes: to compute them, and to adapt them for consumers."""
        tensor, arriving = node.node.outputs[output], node.arriving(output, axis, size)
        flops_per_slice = self.ground.upstream.per_slice(tensor, axis)
        free = node.added(output, axis, size)
        dependence = self.facts.dependence.get((tensor.name, axis))
        dependent = 0 if dependence is None else bits(dependence.mask)

        def cost(stored: int) -> float:
            computing = (stored & ~free).bit_count() * flops_per_slice
            moving = functools.partial(self._moving, tensor, axis, stored)
            restoring = sum(price.at_input(stored, demand, dependent, moving) for demand in demands)
            narrowing = sum(self._moving(t, a, live, stored) for t, a, live in arriving if live & ~stored)
            return float(computing + restoring + narrowing)

        return cost

    def _constant(self, tensor: gs.Tensor, axis: int, size: int) -> Mask:
        """Slices that need not be computed, as they can be stored as constants: bool [size]."""
        constant = self.facts.constant_mask(tensor, axis)
        uneven = self.facts.uneven(tensor, axis) if self.frugal else None
        if uneven is None or uneven.value[0].size <= self.facts.weights(tensor, axis):
            return constant
        return constant & ~uneven.mask  # the maps take more room than the weights that make them

    def _moving(self, tensor: gs.Tensor, axis: int, stored: int, required: int) -> float:
        """FLOPs that an adapter is worth which makes the required slices of those that are stored."""
        return price.of_moving(stored, required, *self.ground.slice_sizes(tensor, axis), self.flops_per_moved_element)

    def _settle(self, tensor: gs.Tensor, axis: int, size: int, stored: Mask | None) -> None:
        """Fix what each consumer is given of what is stored (None: all)."""
        key = tensor.name, axis
        requirements = self.requirements.get(key)
        if not requirements:
            return
        stored = np.ones(size, bool) if stored is None else stored
        wider = stored & self.floor.wider[key] if key in self.floor.wider else None
        for requirement in requirements:
            given = self._given(tensor, axis, stored, wider, requirement.demand)
            if given is not stored and given.tobytes() == stored.tobytes():
                given = stored  # what is read as it is stored is seen at once
            if requirement.node != CALLER and not given.all():
                self.plan.required[requirement.node, requirement.input, axis] = given
        self.plan.settled.append(Settled(tensor, axis, stored, requirements, wider, self.floor.why.get(key, "")))

    def _given(self, tensor: gs.Tensor, axis: int, stored: Mask, wider: Mask | None, demand: Demand) -> Mask:
        """The slices that a consumer finds: those that it needs, or all that are stored if reading them costs less."""
        need = demand.need
        if demand.or_all and stored.all():
            return stored
        if demand.flexible and stored.any() and not (need & ~stored).any():
            unneeded = stored & ~need if wider is None else stored & ~need & ~wider
            needless = demand.flops * float(np.count_nonzero(unneeded))
            reads_all = not need.any() or needless <= self._moving(tensor, axis, bits(stored), demand.bits)
            return stored if reads_all else need
        return not_empty(demand, stored)


def _distinct(demands: list[Demand]) -> list[Demand]:
    """Equal demands as one: they share an adapter, and each pays for what it reads without need."""
    if len(demands) == 1:
        return demands
    found: dict[tuple[int, bool, bool], Demand] = {}
    for demand in demands:
        key = demand.bits, demand.flexible, demand.picked
        same = found.get(key)
        found[key] = demand if same is None else replace(demand, flops=same.flops + demand.flops)
    return list(found.values())
