"""Which slices a plan stores only together: those that links couple, along every axis without an adapter between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Index, Mask, any_set, is_constant, present
from passes.ops import Link
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, StoragePlan
from passes.targets.onnxruntime.convolution_shape import is_depthwise


@dataclass(frozen=True)
class Coupling:
    """Classes of slices that are coupled along the same axes.

    To store one class, each of these axes stores `slices_per_class[axis]` slices. `stored` is the number of classes
    that the plan stores, and `spare` are the others, in the order in which to take them.
    """

    slices_per_class: dict[Key, int]
    stored: int
    spare: Index


class CoupledSlices:
    """The couplings of a plan, and the slices of their classes. Axes that store all they have are in none."""

    def __init__(self, graph: gs.Graph, facts: Facts, plan: StoragePlan) -> None:
        self._plan = plan
        self._start: dict[Key, int] = {}
        self._size = 0
        #: slices that would be stored if no adapters were written, as far as one looks from each alone
        self.restored: list[tuple[Key, Mask]] = []
        for key, mask in plan.stored.items():
            if key[0] not in plan.absent:
                self._start[key] = self._size
                self._size += mask.size
        wanted = np.zeros(self._size, np.int64)
        pairs = list(self._pairs(graph, facts, wanted))
        first, second = (np.concatenate([np.zeros(0, np.int64), *(p[side] for p in pairs)]) for side in (0, 1))
        self._class = _components(self._size, first, second)
        self.found = self._couplings(wanted)

    def slices(self, coupling: Coupling, more: int) -> Iterator[tuple[Key, Mask]]:
        """Along each axis of a coupling, which slices so many of its spare classes have: bool [size]."""
        taken = np.zeros(self._size, bool)
        taken[coupling.spare[:more]] = True
        for key in coupling.slices_per_class:
            start, size = self._start[key], self._plan.stored[key].size
            yield key, taken[self._class[start : start + size]]

    def needed(self, wanted: Iterable[tuple[Key, Mask]]) -> dict[int, int]:
        """How many classes of each coupling, by its number, these slices take that the plan does not store."""
        places = [self._start[key] + np.flatnonzero(mask) for key, mask in wanted if key in self._start]
        classes = np.unique(self._class[np.concatenate([np.zeros(0, np.int64), *places])])
        numbers, counts = np.unique(self._number[classes[~self._is_stored[classes]]], return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def _pairs(self, graph: gs.Graph, facts: Facts, wanted: Index) -> Iterator[tuple[Index, Index]]:
        """Slices that are stored together; `wanted` counts the adapters that would have less to restore for each."""
        for index, node in enumerate(graph.nodes):
            if index not in self._plan.computed:
                continue
            through = set()
            for i, tensor in present(node.inputs):
                for axis in range(len(tensor.shape or ())):
                    key = tensor.name, axis
                    required = self._plan.required.get((index, i, axis))
                    if is_constant(tensor) or key not in self._start:
                        continue
                    stored = self._plan.stored[key]
                    if required is not None and (required is stored or not any_set(required ^ stored)):
                        through.add((i, axis))
                    else:
                        start, size = self._start[key], self._plan.stored[key].size
                        wanted[start : start + size] += True if required is None else required
                        self.restored.append((key, np.ones(size, bool) if required is None else required))
            for link in _links(node, facts):
                source, target = node.inputs[link.input], node.outputs[link.output]
                ends = (source.name, link.input_axis), (target.name, link.output_axis)
                if (link.input, link.input_axis) in through and ends[1] in self._start:
                    before, after = link.pairs(self._plan.stored[ends[0]].size)
                    yield self._start[ends[0]] + before, self._start[ends[1]] + after
                elif ends[0] in self._start and ends[1] in self._start:
                    required = self._plan.required.get((index, link.input, link.input_axis))
                    if required is not None:
                        size = self._plan.stored[ends[1]].size
                        self.restored.append((ends[1], link.forward(self._plan.stored[ends[0]] & ~required, size)))

    def _couplings(self, wanted: Index) -> list[Coupling]:
        """Classes by the axes along which they are coupled, each as often as it has slices there."""
        keys = list(self._start)
        sizes = [self._plan.stored[key].size for key in keys]
        axis = np.repeat(np.arange(len(keys)), sizes)
        is_stored = np.concatenate([np.zeros(0, bool), *(self._plan.stored[key] for key in keys)])
        # a sum of one scattered number for each slice says along which axes, but for one chance in 2^64
        signs = _scattered(len(keys))
        signature, score = np.zeros(self._size, np.uint64), np.zeros(self._size, np.int64)
        np.add.at(signature, self._class, signs[axis])
        np.add.at(score, self._class, wanted)
        stored = np.zeros(self._size, bool)
        np.logical_or.at(stored, self._class, is_stored)
        roots = np.unique(self._class)
        members: dict[int, list[int]] = {}
        for root, sign in zip(roots.tolist(), signature[roots].tolist(), strict=True):
            members.setdefault(sign, []).append(root)
        slices: dict[int, dict[Key, int]] = {roots_[0]: {} for roots_ in members.values()}
        for slot in np.flatnonzero(np.isin(self._class, list(slices))).tolist():
            per_axis = slices[int(self._class[slot])]
            per_axis[keys[axis[slot]]] = per_axis.get(keys[axis[slot]], 0) + 1
        found = []
        self._is_stored, self._number = stored, np.zeros(self._size, np.int64)
        for number, classes in enumerate(map(np.array, members.values())):
            self._number[classes] = number
            spare = classes[~stored[classes]]
            order = np.lexsort((spare, -score[spare]))
            found.append(Coupling(slices[int(classes[0])], int(stored[classes].sum()), spare[order]))
        return found


def _links(node: gs.Node, facts: Facts) -> Iterator[Link]:
    """The links of the node, and for what keeps channels apart without links those between its data and its output."""
    yield from facts.links(node)
    if is_depthwise(node):
        yield Link(0, 1, 0, 1)


def _scattered(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Numbers without a pattern, the same in every run: uint64 [count].

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def _components(size: int, first: Index, second: Index) -> Index:
    """The smallest of the numbers below `size` that each is connected with, by pairs of neighbours: int64 [size]."""
    label = np.arange(size)
    while True:
        low = np.minimum(label[first], label[second])
        before = label.copy()
        for side in (first, second):
            np.minimum.at(label, before[side], low)
            np.minimum.at(label, side, low)
        while not np.array_equal(label, label[label]):
            label = label[label]
        if np.array_equal(label, before):
            return label
