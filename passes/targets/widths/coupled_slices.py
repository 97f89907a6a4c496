"""Slices that a plan stores only together: those that links couple, along every axis without an adapter between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Index, Mask, is_constant, unite
from passes.ops import Link
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, StorageFloor, StoragePlan
from passes.targets.widths.convolution_shape import is_depthwise


@dataclass(frozen=True)
class SliceCoupling:
    """Classes of slices that are coupled along the same axes.

    To store one class, each of these axes stores `slices_per_class[axis]` slices. `stored` is the number of classes
    that the plan stores, and `spare` are the others, in the order in which to take them.
    """

    slices_per_class: dict[Key, int]
    stored: int
    spare: Index


class CoupledSlices:
    """The couplings of a plan, and the slices of their classes. Axes that store all they have are in none.

    Axes that are coupled slice by slice have their slices in one place: long networks have thousands of them.
    """

    def __init__(self, graph: gs.Graph, facts: Facts, plan: StoragePlan) -> None:
        self._plan = plan
        #: slices that would be stored if no adapters were written, as far as one looks from each alone
        self.restored: list[tuple[Key, Mask]] = []
        self._keys = [key for key in plan.stored if key[0] not in plan.absent]
        self._numbers = {key: number for number, key in enumerate(self._keys)}
        wanted, alike, links = self._coupled(graph, facts)
        #: by axis, the first one with which it is coupled slice by slice
        self._first = np.arange(len(self._keys))
        unite(self._first, *(np.array([self._numbers[ends[side]] for ends in alike], np.int64) for side in (0, 1)))
        is_first = self._first == np.arange(len(self._keys))
        self._sizes = np.array([plan.stored[key].size for key in self._keys], np.int64) * is_first
        *starts, self._size = accumulate(self._sizes.tolist(), initial=0)
        self._start = {key: starts[first] for key, first in zip(self._keys, self._first.tolist(), strict=True)}
        ends = [np.concatenate([np.zeros(0, np.int64), *(self._start[k[s]] + i[s] for k, i in links)]) for s in (0, 1)]
        self._class = np.arange(self._size)
        unite(self._class, *ends)
        self.found = self._couplings(wanted)

    def with_spare(self, extras: Mapping[int, int], reason: str) -> StorageFloor:
        """The floor of the plan with so many spare slices of each coupling, by its number; `reason` is that of each."""
        floor = replace(self._plan.floor, stored=dict(self._plan.floor.stored), wider={}, why={})
        taken = np.zeros(self._size, bool)  # of all classes
        for number, more in extras.items():
            taken[self.found[number].spare[:more]] = True
        for key in dict.fromkeys(key for number in extras for key in self.found[number].slices_per_class):
            start, stored = self._start[key], self._plan.stored[key]
            floor.wider[key] = mask = taken[self._class[start : start + stored.size]]
            floor.stored[key] = floor.stored.get(key, np.zeros(mask.size, bool)) | mask
            before = int(stored.sum())
            floor.why[key] = f"kept for a channel count of {before + int(mask.sum())}, {reason.format(before)}"
        return floor

    def needed(self, wanted: Iterable[tuple[Key, Mask]]) -> dict[int, int]:
        """How many classes of each coupling, by its number, these slices take that the plan does not store."""
        places = [self._start[key] + np.flatnonzero(mask) for key, mask in wanted if key in self._start]
        classes = np.unique(self._class[np.concatenate([np.zeros(0, np.int64), *places])])
        numbers, counts = np.unique(self._number[classes[~self._is_stored[classes]]], return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def _coupled(
        self, graph: gs.Graph, facts: Facts
    ) -> tuple[list[tuple[Key, Mask]], list[tuple[Key, Key]], list[tuple[tuple[Key, Key], tuple[Index, Index]]]]:
        """Slices that would leave adapters less to restore if they were stored, and what is stored together.

        That are axes that are coupled slice by slice, and pairs of slices of others.
        """
        wanted, alike, links = [], [], []
        narrowed: dict[str, list[int]] = {}  # axes by tensor
        for name, axis in sorted(self._keys):
            narrowed.setdefault(name, []).append(axis)
        for index, node in enumerate(graph.nodes):
            if index not in self._plan.computed or not any(t.name in narrowed for t in node.inputs):
                continue
            adapted = dict(self._adapted(index, node, narrowed))
            wanted += [((node.inputs[i].name, axis), required) for (i, axis), required in adapted.items()]
            for link in _links(node, facts):
                source, target = node.inputs[link.input], node.outputs[link.output]
                ends = (source.name, link.input_axis), (target.name, link.output_axis)
                if not all(end in self._numbers for end in ends):
                    continue
                sizes = [self._plan.stored[end].size for end in ends]
                if (link.input, link.input_axis) in adapted:
                    required = self._plan.required.get((index, link.input, link.input_axis))
                    if required is not None:
                        unread = self._plan.stored[ends[0]] & ~required
                        self.restored.append((ends[1], link.forward(unread, sizes[1])))
                elif link.source is None and sizes[0] == sizes[1]:
                    alike.append(ends)
                else:
                    links.append((ends, link.pairs(sizes[0])))
        self.restored += wanted
        return wanted, alike, links

    def _adapted(
        self, index: int, node: gs.Node, narrowed: Mapping[str, list[int]]
    ) -> Iterator[tuple[tuple[int, int], Mask]]:
        """Operands and axes, of those that are not stored whole, which an adapter is written for, with its slices."""
        for i, tensor in enumerate(node.inputs):
            for axis in () if is_constant(tensor) else narrowed.get(tensor.name, ()):
                stored, required = self._plan.stored[tensor.name, axis], self._plan.required.get((index, i, axis))
                if required is None:
                    yield (i, axis), np.ones(stored.size, bool)
                elif required is not stored and (required ^ stored).any():
                    yield (i, axis), required

    def _couplings(self, wanted: Iterable[tuple[Key, Mask]]) -> list[SliceCoupling]:
        """Classes by the axes along which they are coupled, each as often as it has slices there."""
        together: dict[int, list[int]] = {}  # axes by the first with which they are coupled slice by slice
        for number, first in enumerate(self._first.tolist()):
            together.setdefault(first, []).append(number)
        is_stored, score = np.zeros(self._size, bool), np.zeros(self._size, np.int64)
        for key in self._keys:
            start, mask = self._start[key], self._plan.stored[key]
            is_stored[start : start + mask.size] |= mask
        for key, mask in wanted:
            score[self._start[key] : self._start[key] + mask.size] += mask
        numbers = np.repeat(np.arange(len(self._keys)), self._sizes)
        self._is_stored = np.bincount(self._class, is_stored, minlength=self._size) > 0
        scores = np.bincount(self._class, score, minlength=self._size)
        # by class, the numbers of its axes and how many slices it has along each
        pairs, counts = np.unique(self._class * (len(self._keys) + 1) + numbers, return_counts=True)
        classes, starts = np.unique(pairs // (len(self._keys) + 1), return_index=True)
        axes = np.stack([pairs % (len(self._keys) + 1), counts], axis=1)
        ends = [*starts[1:].tolist(), pairs.size]
        alike: dict[bytes, list[int]] = {}
        for root, start, end in zip(classes.tolist(), starts.tolist(), ends, strict=False):
            alike.setdefault(axes[start:end].tobytes(), []).append(root)
        found = []
        self._number = np.zeros(self._size, np.int64)
        for number, (row, roots) in enumerate(alike.items()):
            members = np.array(roots)
            self._number[members] = number
            spare = members[~self._is_stored[members]]
            order = np.lexsort((spare, -scores[spare]))
            counted = np.frombuffer(row, np.int64).reshape(-1, 2).tolist()
            slices = dict(sorted((axis, n) for first, n in counted for axis in together[first]))
            slices_per_class = {self._keys[axis]: n for axis, n in slices.items()}
            found.append(SliceCoupling(slices_per_class, int(self._is_stored[members].sum()), spare[order]))
        return found


def _links(node: gs.Node, facts: Facts) -> Iterator[Link]:
    """The links of the node, and for what keeps channels apart without links those between its data and its output."""
    yield from facts.links(node)
    if is_depthwise(node):
        yield Link(0, 1, 0, 1)
