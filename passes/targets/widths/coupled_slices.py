"""Which slices a plan stores only together: those that links couple, along every axis without an adapter between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Index, Mask, any_set, is_constant
from passes.ops import Link
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, StoragePlan
from passes.targets.widths.convolution_shape import is_depthwise


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
    """The couplings of a plan, and the slices of their classes. Axes that store all they have are in none.

    Axes that are coupled slice by slice have their slices in one place.
    """

    def __init__(self, graph: gs.Graph, facts: Facts, plan: StoragePlan) -> None:
        self._plan = plan
        #: slices that would be stored if no adapters were written, as far as one looks from each alone
        self.restored: list[tuple[Key, Mask]] = []
        self._keys = [key for key in plan.stored if key[0] not in plan.absent]
        self._first = list(range(len(self._keys)))  # by axis, one before it with which it is coupled slice by slice
        self._start: dict[Key, int] = {}
        self._size = 0
        numbers = {key: number for number, key in enumerate(self._keys)}
        wanted, links = self._coupled(graph, facts, numbers)
        for number, key in enumerate(self._keys):
            first = self._axis(number)
            if first == number:
                self._start[key] = self._size
                self._size += plan.stored[key].size
            else:
                self._start[key] = self._start[self._keys[first]]
        ends = [np.concatenate([np.zeros(0, np.int64), *(self._start[k[s]] + i[s] for k, i in links)]) for s in (0, 1)]
        self._class = _components(self._size, *ends)
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

    def _axis(self, number: int) -> int:
        """The first of the axes that are coupled slice by slice with this one, by their numbers."""
        while self._first[number] != number:
            self._first[number] = number = self._first[self._first[number]]
        return number

    def _coupled(
        self, graph: gs.Graph, facts: Facts, numbers: Mapping[Key, int]
    ) -> tuple[list[tuple[Key, Mask]], list[tuple[tuple[Key, Key], tuple[Index, Index]]]]:
        """Slices of which adapters would have less to restore if they were stored, and pairs that are stored together.

        Axes that are coupled slice by slice are no pairs, but noted as such.
        """
        wanted, links = [], []
        narrowed: dict[str, list[int]] = {}  # axes by tensor
        for name, axis in sorted(numbers):
            narrowed.setdefault(name, []).append(axis)
        for index, node in enumerate(graph.nodes):
            if index not in self._plan.computed or not any(t.name in narrowed for t in node.inputs):
                continue
            through = set()
            for i, tensor in enumerate(node.inputs):
                for axis in () if is_constant(tensor) else narrowed.get(tensor.name, ()):
                    key = tensor.name, axis
                    stored, required = self._plan.stored[key], self._plan.required.get((index, i, axis))
                    if required is not None and (required is stored or not any_set(required ^ stored)):
                        through.add((i, axis))
                    else:
                        wanted.append((key, np.ones(stored.size, bool) if required is None else required))
                        self.restored.append(wanted[-1])
            for link in _links(node, facts):
                source, target = node.inputs[link.input], node.outputs[link.output]
                ends = (source.name, link.input_axis), (target.name, link.output_axis)
                if not all(end in numbers for end in ends):
                    continue
                sizes = [self._plan.stored[end].size for end in ends]
                if (link.input, link.input_axis) not in through:
                    required = self._plan.required.get((index, link.input, link.input_axis))
                    if required is not None:
                        unread = self._plan.stored[ends[0]] & ~required
                        self.restored.append((ends[1], link.forward(unread, sizes[1])))
                elif link.source is None and sizes[0] == sizes[1]:
                    axes = sorted(self._axis(numbers[end]) for end in ends)
                    self._first[axes[1]] = axes[0]
                else:
                    links.append((ends, link.pairs(sizes[0])))
        return wanted, links

    def _couplings(self, wanted: Iterable[tuple[Key, Mask]]) -> list[Coupling]:
        """Classes by the axes along which they are coupled, each as often as it has slices there."""
        together: dict[int, list[int]] = {}  # axes that are coupled slice by slice, by the first of them
        for number in range(len(self._keys)):
            together.setdefault(self._axis(number), []).append(number)
        is_stored, score = np.zeros(self._size, bool), np.zeros(self._size, np.int64)
        for key in self._keys:
            start, mask = self._start[key], self._plan.stored[key]
            is_stored[start : start + mask.size] |= mask
        for key, mask in wanted:
            score[self._start[key] : self._start[key] + mask.size] += mask
        sizes = [self._plan.stored[self._keys[first]].size for first in together]
        firsts = np.repeat(np.array(list(together), np.int64), sizes)
        # a sum of one scattered number for each slice says along which axes, but for one chance in 2^64
        signs, sums = _scattered(len(self._keys)), np.zeros(len(self._keys), np.uint64)
        for first, numbers in together.items():
            sums[first] = signs[numbers].sum()
        signature, stored = np.zeros(self._size, np.uint64), np.zeros(self._size, bool)
        scores = np.zeros(self._size, np.int64)
        np.add.at(signature, self._class, sums[firsts])
        np.add.at(scores, self._class, score)
        np.logical_or.at(stored, self._class, is_stored)
        roots = np.unique(self._class)
        members: dict[int, list[int]] = {}
        for root, sign in zip(roots.tolist(), signature[roots].tolist(), strict=True):
            members.setdefault(sign, []).append(root)
        counts: dict[int, dict[int, int]] = {roots_[0]: {} for roots_ in members.values()}
        for slot in np.flatnonzero(np.isin(self._class, list(counts))).tolist():
            per_axis = counts[int(self._class[slot])]
            per_axis[int(firsts[slot])] = per_axis.get(int(firsts[slot]), 0) + 1
        found = []
        self._is_stored, self._number = stored, np.zeros(self._size, np.int64)
        for number, classes in enumerate(map(np.array, members.values())):
            self._number[classes] = number
            spare = classes[~stored[classes]]
            order = np.lexsort((spare, -scores[spare]))
            many = {axis: n for first, n in counts[int(classes[0])].items() for axis in together[first]}
            slices = {self._keys[axis]: many[axis] for axis in sorted(many)}
            found.append(Coupling(slices, int(stored[classes].sum()), spare[order]))
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
