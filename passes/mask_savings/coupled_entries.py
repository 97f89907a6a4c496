"""Coupling: which mask entries can only be zeroed together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Place
from passes.analysis import dataflow
from passes.errors.arguments import typed
from passes.graph.tensors import MOST_SLICES, Array, Index, Mask, is_constant, unite
from passes.mask_savings.compiled_cost import compiled_cost
from passes.model.inputs import bind, no_input, split
from passes.ops import Linked, rules, traits
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key
from passes.sizes.prepare import prepared

Groups = dict[str, Index]
_Kind = tuple[Hashable, ...]
Decisions = dict[_Kind, int | None]
Division = Callable[[str, Sequence[Index]], int | None]

_NONE = np.zeros(0, np.int64)


#: How much more each entry must save in a class of slices than alone, for the entries of the class to be coupled.
_TOGETHER = 1.05
#: Steps from an operator that divides slices within which others say what is best for it.
_AROUND = 4
#: How much more each entry must save in larger classes than in smaller ones, for the larger to be taken.
_COARSE = 1.25


@dataclass(frozen=True)
class Coupling:
    """Which mask entries are zeroed together, and where the slices are that go with them.

    groups: by mask, int64 [channels], as `coupled` says. entries: by tensor name and axis, int64 [size], for each slice
    one of the entries that it is coupled with, in numbers that run through all masks, -1 where there is none.
    """

    groups: Groups
    entries: dict[Key, Index]

    @typed
    def group_of_each(self, masks: Mapping[str, Array], groups: Mapping[str, Index]) -> Index:
        """The group of each entry of all masks, int64 [entries]: -1 for entries that are zero, or kept.

        Raises ValueError where groups are not as many whole numbers as their mask has entries.
        """
        if masks.keys() != self.groups.keys():
            raise ValueError("The coupling is that of other masks.")
        for name, mask in masks.items():
            index = groups.get(name)
            if index is None or mask.ndim != 1 or index.shape != mask.shape or index.dtype.kind not in "iu":
                raise ValueError(f"The mask '{name}' must have one axis, and groups as many whole numbers for it.")
            if index.min(initial=-1) < -1:
                raise ValueError(f"Groups of the mask '{name}' must be numbered from 0, with -1 for entries to keep.")
        return np.concatenate([_NONE, *(np.where(mask != 0, groups[name], -1) for name, mask in masks.items())])


@typed
def coupled(model: onnx.ModelProto, masks: Mapping[str, int]) -> Groups:
    """The groups of mask entries that are to be zeroed together.

    masks: by the name of the graph input, of shape [channels], the number of channels. Returns, by the same names,
    int64 [channels] with the number of each entry's group; equal numbers are one group, in whichever mask.

    Entries are coupled that meet in one slice of a tensor, where operators keep slices apart: a residual sum, a gate,
    a depthwise convolution, queries and keys. Where slices are only stored by whole classes (heads, groups of a
    convolution, channels of a flattened map) those of the class that saves most for each entry are coupled, if they
    save more so than alone.

    Raises LookupError if a name is not that of a graph input, GraphError if the graph is not valid.
    """
    return coupling(model, masks).groups


@typed
def coupling(
    model: onnx.ModelProto,
    masks: Mapping[str, int],
    division: Division | None = None,
    best: Decisions | None = None,
) -> Coupling:
    """The groups of `coupled`, and the slices of all tensors that they reach; arguments and errors are the same.

    division: by which of the axes that an axis is of, or becomes, a node of this name is to divide its slices; of each
    there is the place of the slice, int64 [slices]. Without it, or None: by the one that saves most. best: which that
    is, by what an axis looks like, as far as another call with fewer masks has found; what this one finds is added.
    """
    spreading = _Spreading(prepared(model), masks)
    spreading.run()
    cost = _Cost(model, masks)
    best = {} if best is None else best
    for part in spreading.parts:
        entries = spreading.entries_by_slice(part)
        if entries is None:
            continue
        chosen = None if division is None or None in part.shorts else division(part.node.name, part.classes)
        if chosen is None:
            kind = spreading.kind(part, entries)
            if kind not in best:
                best[kind] = _best(cost, spreading.root, part, entries)
            chosen = best[kind]
        if chosen is not None:
            part.chosen = chosen
            spreading.run()
    return Coupling(split(spreading.root, masks), spreading.label)


@dataclass(frozen=True)
class _Cost:
    """FLOPs of a model with masks on its inputs, when it is compiled."""

    model: onnx.ModelProto
    masks: Mapping[str, int]

    def of(self, entries: Mask) -> int:
        """Those that are left with these mask entries, bool [entries]."""
        return compiled_cost(bind(self.model, split(entries.astype(np.float32), self.masks))).flops

    @cached_property
    def whole(self) -> int:
        """Those of the model with all of them."""
        return self.of(np.ones(sum(self.masks.values()), bool))


def _best(cost: _Cost, root: Index, part: _Part, entries: Index) -> int | None:
    """The division of the part's slices whose classes save most for each entry; None if single slices do.

    Of several that save nearly the same, the one with the smallest classes, which leaves the most choice.
    """

    def saving(slices: Mask) -> tuple[float, int]:
        zeroed = np.isin(root, np.unique(entries[slices]))
        return (cost.whole - cost.of(~zeroed)) / int(zeroed.sum()), int(zeroed.sum())

    first = int(np.flatnonzero(entries >= 0)[0])
    alone, _ = saving(np.arange(len(entries)) == first)
    # where a whole mask would be zeroed or none of it, each entry is better on its own
    choices = [d for d, index in enumerate(part.classes) if _leaves_a_choice(root, cost.masks, entries, index)]
    together = {d: saving((part.classes[d] == part.classes[d][first]) & (entries >= 0)) for d in choices}
    most = max((saved for saved, _ in together.values()), default=0)
    if most <= _TOGETHER * max(alone, 0):
        return None
    near = [division for division, (saved, _) in together.items() if saved * _COARSE >= most]
    return min(near, key=lambda division: together[division][1])


def _leaves_a_choice(root: Index, masks: Mapping[str, int], entries: Index, index: Index) -> bool:
    """Whether no mask of several groups becomes a single one, where the entries of each class are coupled."""
    united = np.arange(len(root))
    unite(united, *_by_class(entries, index))
    groups = zip(split(root, masks).values(), split(united[root], masks).values(), strict=True)
    return all(len(np.unique(after)) > 1 or len(np.unique(old)) == 1 for old, after in groups)


@dataclass
class _Part:
    """An axis that a node stores by whole classes of its slices, in one of several divisions.

    `classes[k]` has the class of each slice in division k, and `shorts[k]` the axis whose slices are these classes, if
    there is one. `chosen` is the division that couples slices.
    """

    node: gs.Node
    long: Key
    classes: list[Index]
    shorts: list[Key | None]
    chosen: int | None = None


class _Spreading:
    """Mask entries spread along links, over all slices that are coupled with them; entries that meet are united.

    `root[e]` is the first entry that entry e is coupled with; `label[tensor, axis]` an entry for each slice, -1 where
    none reaches it.
    """

    def __init__(self, graph: gs.Graph, masks: Mapping[str, int]) -> None:
        inputs = [tensor.name for tensor in graph.inputs]
        if absent := next((name for name in masks if name not in inputs), None):
            raise LookupError(no_input(absent, inputs))
        if unlikely := next((name for name, size in masks.items() if not 0 <= size <= MOST_SLICES), None):
            raise ValueError(f"The mask '{unlikely}' cannot have {masks[unlikely]:,} channels.")
        self.root = np.arange(sum(masks.values()))
        self.label = {(name, 0): entries for name, entries in split(self.root.copy(), masks).items()}
        self.parts: list[_Part] = []
        self._pairs: list[tuple[Key, Key, Index | None]] = []
        self._sizes: dict[Key, int] = {}
        self._changed = False
        found = dataflow.analyse(graph)
        for node in graph.nodes:
            self._collect(node, found)

    def run(self) -> None:
        """Spread, and unite the entries of the classes that are chosen, until nothing changes."""
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
        label = self.label.get(part.long)
        if label is None or part.chosen is not None or any(short in self.label for short in part.shorts):
            return None
        entries = np.where(label >= 0, self.root[label], -1)
        return entries if len(np.unique(entries[entries >= 0])) > 1 else None

    def kind(self, part: _Part, entries: Index) -> _Kind:
        """What a part looks like: what is best for one block of a transformer is so for the others.

        That is how slices are divided, which of them are coupled, with how many entries, and the operators around.
        """
        _, relative = np.unique(entries, return_inverse=True)
        together = np.append(np.bincount(self.root), 0)[entries]
        return _around(part.node), *(array.tobytes() for array in (*part.classes, relative, together))

    def _collect(self, node: gs.Node, found: Facts) -> None:
        if not isinstance(rules(node), Linked):
            for first, second, index in traits.couples(node, found):
                self._connect(found, first, second, index)
            divisions = traits.partitions(node, found)
            self.parts += [_Part(node, self._key(found, p), c, [None] * len(c)) for p, c in divisions]
            return
        # layers that share a constant stay apart
        links = [link for link in found.links(node) if not is_constant(node.inputs[link.input])]
        merged: dict[tuple[int, int, int], set[int]] = {}  # axes of an input by the output axis they become
        for link in links:
            if link.source is not None and not link.split:
                merged.setdefault((link.input, link.output, link.output_axis), set()).add(link.input_axis)
        divided: dict[Key, _Part] = {}
        for link in links:
            before = node.inputs[link.input], link.input_axis
            after = node.outputs[link.output], link.output_axis
            merges = len(merged.get((link.input, link.output, link.output_axis), ())) > 1
            if link.source is None or not (link.split or merges):
                self._connect(found, before, after, link.source)
                continue
            long, short = (self._key(found, place) for place in ((before, after) if link.split else (after, before)))
            part = divided.setdefault(long, _Part(node, long, [], []))
            part.classes.append(link.source)
            part.shorts.append(short)
        self.parts += divided.values()

    def _connect(self, found: Facts, first: Place, second: Place, index: Index | None) -> None:
        sizes = found.size(*first), found.size(*second)
        if not is_constant(first[0]) and sizes[0] and sizes[1] and (index is not None or sizes[0] == sizes[1]):
            self._pairs.append((self._key(found, first), self._key(found, second), index))

    def _key(self, found: Facts, place: Place) -> Key:
        key = place[0].name, place[1]
        self._sizes[key] = found.size(*place) or 0
        return key

    def _forward(self, first: Key, second: Key, index: Index | None) -> None:
        """Slice j of the second is coupled with slice `index[j]` of the first."""
        label = self.label.get(first)
        if label is not None:
            self._meet(second, label if index is None else np.where(index >= 0, label[index], -1))

    def _uniform(self, second: Key, index: Index | None, first: Key) -> Index | None:
        """For each slice of the first the entry that all its slices in the second have, -1 if there is none."""
        label = self.label.get(second)
        if label is None or index is None:
            return label
        inside = index >= 0
        entry = np.where(label >= 0, self.root[label], -1)[inside]
        low, high = np.full(self._sizes[first], len(self.root)), np.full(self._sizes[first], -1)
        np.minimum.at(low, index[inside], entry)
        np.maximum.at(high, index[inside], entry)
        return np.where(low == high, high, -1)

    def _spread(self, part: _Part) -> None:
        for division, (short, index) in enumerate(zip(part.shorts, part.classes, strict=True)):
            if short is None:
                continue
            self._meet(short, self._uniform(part.long, index, short))
            if short in self.label and part.chosen is None:
                part.chosen = division
        if part.chosen is None:
            return
        short = part.shorts[part.chosen]
        if short is not None:
            self._forward(short, part.long, part.classes[part.chosen])
        if part.long in self.label:
            self._unite(*_by_class(self.label[part.long], part.classes[part.chosen]))

    def _meet(self, key: Key, entries: Index | None) -> None:
        """These entries (-1: none) reach the slices of a tensor."""
        if entries is None or not (entries >= 0).any():
            return
        label = self.label.setdefault(key, np.full(len(entries), -1))
        if np.array_equal(label, entries):
            return
        fresh = (label < 0) & (entries >= 0)
        if fresh.any():
            label[fresh] = entries[fresh]
            self._changed = True
        both = (label >= 0) & (entries >= 0)
        self._unite(label[both], entries[both])

    def _unite(self, a: Index, b: Index) -> None:
        self._changed |= unite(self.root, a, b)


def _around(node: gs.Node) -> _Kind:
    """The operators of a node, of each step ahead, with where they read what comes before, and of each step back."""
    found: list[_Kind] = [(node.op,)]
    ahead, back = [node], [node]
    for _ in range(_AROUND):
        made = {id(tensor) for each in ahead for tensor in each.outputs}
        ahead = [*{id(n): n for each in ahead for tensor in each.outputs for n in tensor.outputs}.values()]
        back = [*{id(n): n for each in back for tensor in each.inputs for n in tensor.inputs}.values()]
        reading = [(n.op, *(i for i, tensor in enumerate(n.inputs) if id(tensor) in made)) for n in ahead]
        found += [tuple(sorted(reading)), tuple(sorted(n.op for n in back))]
    return tuple(found)


def _by_class(entries: Index, index: Index) -> tuple[Index, Index]:
    """Pairs of entries (-1: none) that unite those of each class, where they are united; `index`: the class of each."""
    reached = np.flatnonzero(entries >= 0)
    first = np.zeros(int(index.max()) + 1, np.int64)
    first[index[reached][::-1]] = entries[reached][::-1]
    return entries[reached], first[index[reached]]
