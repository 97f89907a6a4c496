"""Which mask entries can only go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Place
from passes.analysis import dataflow
from passes.graph.tensors import Array, Index, Mask, is_constant
from passes.mask_savings.flops_saved import compiled_cost
from passes.model.inputs import bind
from passes.model.prepare import prepared
from passes.ops import Linked, rules
from passes.ops.convolution import partitions
from passes.rewriting.channel_facts import Facts

Groups = dict[str, Index]

#: How much more each entry must save in a class of slices than alone, for the entries of the class to be tied.
_WORTH = 1.05
#: How much more each entry must save in larger classes than in smaller ones, for the larger to be taken.
_COARSE = 1.25


def coupled(model: onnx.ModelProto, masks: Mapping[str, int]) -> Groups:
    """The groups of mask entries that are to be zeroed together.

    masks: by the name of the graph input, of shape [channels], the number of channels. Returns, by the same names,
    int64 [channels] with the number of each entry's group; equal numbers are one group, in whichever mask.

    Entries are together that meet in one slice of a tensor, where operators keep slices apart: a residual sum, a gate,
    a depthwise convolution, queries and keys. Where slices are only stored by whole classes (heads, groups of a
    convolution, channels of a flattened map) those of the class that saves most for each entry are together, if they
    save more so than alone.

    Raises KeyError if a name is not that of a graph input, GraphError if the graph is not valid.
    """
    graph = prepared(model)
    inputs = {t.name: t for t in graph.inputs}
    flood = _Flood(graph, [(inputs[name], size) for name, size in masks.items()])
    flood.run()
    for part in flood.parts:
        entries = flood.entries_by_slice(part)
        if entries is None:
            continue
        chosen = _best(model, masks, flood, part, entries)
        if chosen is not None:
            flood.choose(part, chosen)
            flood.run()
    return _split(flood.root, masks)


def _best(model: onnx.ModelProto, masks: Mapping[str, int], flood: _Flood, part: _Part, entries: Index) -> int | None:
    """The division of the part's slices whose classes are worth most for each entry; None if single slices are.

    Of several that are worth nearly the same, the one with the smallest classes, which leaves the most choice.
    """
    whole = np.ones(len(flood.root), np.float32)
    total = compiled_cost(bind(model, _split(whole, masks))).flops

    def worth(slices: Mask) -> tuple[float, int]:
        zeroed = np.isin(flood.root, np.unique(entries[slices]))
        saved = total - compiled_cost(bind(model, _split(np.where(zeroed, 0, whole), masks))).flops
        return saved / int(zeroed.sum()), int(zeroed.sum())

    first = int(np.flatnonzero(entries >= 0)[0])
    alone, _ = worth(np.arange(len(entries)) == first)
    # where a whole mask would go or none of it, each entry is better on its own
    choices = [d for d, index in enumerate(part.classes) if _leaves_a_choice(flood.root, masks, entries, index)]
    together = {d: worth((part.classes[d] == part.classes[d][first]) & (entries >= 0)) for d in choices}
    most = max((saved for saved, _ in together.values()), default=0)
    if most <= _WORTH * max(alone, 0):
        return None
    near = [division for division, (saved, _) in together.items() if saved * _COARSE >= most]
    return min(near, key=lambda division: together[division][1])


def _leaves_a_choice(root: Index, masks: Mapping[str, int], entries: Index, index: Index) -> bool:
    """Whether no mask of several groups becomes a single one, where the entries of each class go together."""
    reached, united = entries >= 0, np.arange(len(root))
    before = None
    while before is None or not np.array_equal(before, united):
        before = united.copy()
        lowest = np.full(int(index.max()) + 1, len(root))
        np.minimum.at(lowest, index[reached], united[entries[reached]])
        np.minimum.at(united, entries[reached], lowest[index[reached]])
    groups = zip(_split(root, masks).values(), _split(united[root], masks).values(), strict=True)
    return all(len(np.unique(after)) > 1 or len(np.unique(old)) == 1 for old, after in groups)


def _split(values: Array, masks: Mapping[str, object]) -> dict[str, Array]:
    sizes = [size if isinstance(size, int) else len(size) for size in masks.values()]  # type: ignore[arg-type]
    return dict(zip(masks, np.split(values, np.cumsum(sizes)[:-1]), strict=True))


@dataclass
class _Part:
    """An axis that is stored by whole classes of its slices, in one of several divisions.

    `classes[k]` has the class of each slice in division k, and `shorts[k]` the axis whose slices are these classes, if
    there is one. `chosen` is the division that ties slices.
    """

    long: Place
    classes: list[Index]
    shorts: list[Place | None]
    chosen: int | None = None


class _Flood:
    """Mask entries spread along links, over all slices that go with them; entries that meet are united.

    `root[e]` is the first entry that entry e goes with; `label[tensor, axis]` an entry for each slice, -1 where none
    reaches it.
    """

    def __init__(self, graph: gs.Graph, masks: list[tuple[gs.Tensor, int]]) -> None:
        self.root = np.arange(sum(size for _, size in masks))
        self.label: dict[tuple[str, int], Index] = {}
        self.parts: list[_Part] = []
        self._pairs: list[tuple[Place, Place, Index | None]] = []
        self._changed = False
        found = dataflow.analyse(graph)
        self._sizes = found.size
        for node in graph.nodes:
            self._collect(node, found)
        start = 0
        for tensor, size in masks:
            self.label[tensor.name, 0] = np.arange(start, start + size)
            start += size

    def run(self) -> None:
        """Spread until nothing changes."""
        self._changed = True
        while self._changed:
            self._changed = False
            for step in (self._pairs, self._pairs[::-1]):
                for first, second, index in step:
                    self._forward(first, second, index)
                    self._meet(first, self._uniform(second, index, first))
            for part in self.parts:
                self._spread(part)

    def entries_by_slice(self, part: _Part) -> Index | None:
        """The root of each slice of an axis on whose division nothing has decided yet; None if there is nothing to."""
        label = self.label.get(_key(part.long))
        if label is None or part.chosen is not None or any(s and _key(s) in self.label for s in part.shorts):
            return None
        entries = np.where(label >= 0, self.root[label], -1)
        return entries if len(np.unique(entries[entries >= 0])) > 1 else None

    def choose(self, part: _Part, division: int) -> None:
        """Unite the entries of each class."""
        part.chosen = division
        self._unite_classes(part)

    def _collect(self, node: gs.Node, found: Facts) -> None:
        if not isinstance(rules(node), Linked):
            self._pairs += [(a, b, i) for a, b, i in rules(node).couples(node, found) if self._fit(a, b, i)]
            self.parts += [_Part(p, c, [None] * len(c)) for p, c in partitions(node, found)]
            return
        links = [
            (k, (node.inputs[k.input], k.input_axis), (node.outputs[k.output], k.output_axis))
            for k in found.links(node)
        ]
        divided: dict[tuple[str, int], _Part] = {}
        for link, before, after in links:
            siblings = [
                k for k, _, other in links if k.source is not None and not k.split and _key(other) == _key(after)
            ]
            merges = link.source is not None and len({k.input_axis for k in siblings if k.input == link.input}) > 1
            if (link.split or merges) and link.source is not None:
                long, short = (before, after) if link.split else (after, before)
                part = divided.setdefault(_key(long), _Part(long, [], []))
                part.classes.append(link.source)
                part.shorts.append(short)
            elif self._fit(before, after, link.source):
                self._pairs.append((before, after, link.source))
        self.parts += divided.values()

    def _fit(self, first: Place, second: Place, index: Index | None) -> bool:
        sizes = self._sizes(*first), self._sizes(*second)
        return bool(sizes[0] and sizes[1]) and (index is not None or sizes[0] == sizes[1])

    def _forward(self, first: Place, second: Place, index: Index | None) -> None:
        """Slice j of the second goes with slice `index[j]` of the first."""
        label = self.label.get(_key(first))
        if label is not None:
            self._meet(second, label if index is None else np.where(index >= 0, label[index], -1))

    def _uniform(self, second: Place, index: Index | None, first: Place) -> Index | None:
        """For each slice of the first the entry that all its slices in the second go with, -1 if there is no such."""
        label = self.label.get(_key(second))
        if label is None:
            return None
        if index is None:
            return label
        inside = index >= 0
        entry = np.where(label >= 0, self.root[label], -1)[inside]
        size = self._sizes(*first) or 0
        low, high = np.full(size, len(self.root)), np.full(size, -1)
        np.minimum.at(low, index[inside], entry)
        np.maximum.at(high, index[inside], entry)
        return np.where(low == high, high, -1)

    def _spread(self, part: _Part) -> None:
        for division, (short, index) in enumerate(zip(part.shorts, part.classes, strict=True)):
            if short is None:
                continue
            self._meet(short, self._uniform(part.long, index, short))
            if _key(short) in self.label and part.chosen is None:
                part.chosen = division
        if part.chosen is None:
            return
        chosen = part.shorts[part.chosen]
        if chosen is not None:
            self._forward(chosen, part.long, part.classes[part.chosen])
        self._unite_classes(part)

    def _unite_classes(self, part: _Part) -> None:
        label = self.label.get(_key(part.long))
        if label is None or part.chosen is None:
            return
        index = part.classes[part.chosen]
        reached = np.flatnonzero(label >= 0)
        first = np.zeros(int(index.max()) + 1, np.int64)
        first[index[reached][::-1]] = label[reached][::-1]
        self._unite(label[reached], first[index[reached]])

    def _meet(self, place: Place, entries: Index | None) -> None:
        """These entries (-1: none) reach the slices of a tensor."""
        tensor, _ = place
        if entries is None or is_constant(tensor) or not (entries >= 0).any():
            return
        label = self.label.setdefault(_key(place), np.full(len(entries), -1))
        fresh = (label < 0) & (entries >= 0)
        if fresh.any():
            label[fresh] = entries[fresh]
            self._changed = True
        both = (label >= 0) & (entries >= 0)
        self._unite(label[both], entries[both])

    def _unite(self, a: Index, b: Index) -> None:
        while True:
            low = np.minimum(self.root[a], self.root[b])
            if np.array_equal(self.root[a], self.root[b]):
                return
            self._changed = True
            np.minimum.at(self.root, self.root[a], low)
            np.minimum.at(self.root, self.root[b], low)
            while not np.array_equal(self.root, self.root[self.root]):
                self.root = self.root[self.root]


def _key(place: Place) -> tuple[str, int]:
    return place[0].name, place[1]
