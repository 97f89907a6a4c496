"""Kinds of groups of mask entries: those whose slices play the same part in a graph save the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.graph.tensors import Array, Index, is_constant, shape_of
from passes.mask_savings.coupled_entries import Coupling
from passes.model.inputs import bind
from passes.ops import Linked, rules
from passes.ops.traits import partitions
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key
from passes.sizes.prepare import prepared

_CONSTANT, _ZERO, _LIVE, _STATES = 1, 2, 4, 8


def kinds_of_groups(
    model: onnx.ModelProto, masks: Mapping[str, Array], groups: Mapping[str, Index], coupling: Coupling
) -> Index:
    """The kind of each group, int64 [groups]: -1 for those without an entry that is not zero.

    masks: by the name of the graph input that it is bound to, 0/1 [channels]. groups: by mask name, int64 [channels],
    the group of each entry, numbered from 0, -1 for entries that are kept. Groups of one kind have as many entries in
    each mask, coupled with others in the same way, and of the slices that go with these as many of each axis are
    constant, zero and read, now and when the entries are zeroed.
    """
    group = coupling.group_of_each(masks, groups)
    root = np.concatenate([coupling.groups[name] for name in masks])
    live = np.concatenate([np.asarray(mask) != 0 for mask in masks.values()])
    which = np.repeat(np.arange(len(masks)), [len(mask) for mask in masks.values()])
    coupled = which * root.size + root  # the same for entries of one mask that are coupled
    order = np.argsort(coupled, kind="stable")
    rank = np.empty_like(root)  # of each entry among these
    rank[order] = np.arange(root.size) - np.searchsorted(coupled[order], coupled[order])
    own = _hash(which + len(masks) * rank)
    classes = np.zeros(root.size, np.int64)  # a hash of coupled entries, by their root
    np.add.at(classes, root[live], own[live])
    for place, (key, state) in enumerate(_states(model, masks)):
        entry = coupling.entries.get(key)
        if entry is not None and entry.size == state.size:
            reached = entry >= 0
            np.add.at(classes, root[entry[reached]], _hash(_hash(np.array([place])) + state[reached]))
    member = np.flatnonzero(group >= 0)
    pairs, part = np.unique(np.stack([group[member], root[member]]), axis=1, return_inverse=True)
    parts = np.zeros(pairs.shape[1], np.int64)  # of each group in each class
    np.add.at(parts, part.reshape(-1), own[member])
    whole = np.zeros(max((int(g.max(initial=-1)) for g in groups.values()), default=-1) + 1, np.int64)
    np.add.at(whole, pairs[0], _hash(parts + 3 * classes[pairs[1]]))
    present = np.unique(pairs[0])
    kinds = np.full(whole.size, -1)
    kinds[present] = np.unique(whole[present], return_inverse=True)[1].reshape(-1)
    return kinds


def _states(model: onnx.ModelProto, masks: Mapping[str, Array]) -> Iterator[tuple[Key, Index]]:
    """By tensor name and axis: for each slice whether it is constant, zero and read, and what it is when masked.

    Whether a channel without input is zero after a bias and a Relu is decided by the weights, and by it what the
    channel costs then. All entries of all masks but one each are zeroed at once, once all but the first and once all
    but the last: what mixes channels still has an input, and what keeps them apart has none.

    Beside it the states of slices on which it depends what a slice saves, though they are not coupled with it.
    """
    graph, facts = _analysed(model, masks)
    states = {
        (tensor.name, axis): _constant(facts, tensor, axis) + _LIVE * facts.live(tensor, axis)
        for tensor, axis in _axes(graph, facts)
    }
    masked: dict[Key, Index] = {}
    for kept in (0, -1):
        trial = {name: np.zeros(len(mask)) for name, mask in masks.items()}
        for mask in trial.values():
            mask[kept : kept + 1 or None] = 1
        for tensor, axis in _axes(*(trial_facts := _analysed(model, trial))):
            state, key = _constant(trial_facts[1], tensor, axis), (tensor.name, axis)
            masked[key] = np.maximum(masked.get(key, state), state)  # of what is kept, the other time says it
    for key, state in states.items():
        if key in masked and masked[key].size == state.size:
            states[key] = state + _STATES * masked[key]
    yield from states.items()
    for node in graph.nodes:
        for first, second in _along(node, facts):
            if first in states and second in states:
                yield first, states[second]
                yield second, states[first]
        # divisions of several axes into as many classes, in order, are into the same: into heads, say
        divided = [(t.name, a, d, i) for (t, a), ds in partitions(node, facts) for d, i in enumerate(ds)]
        totals: dict[tuple[int, int], Index] = {}
        for name, axis, division, index in (part for part in divided if part[:2] in states):
            total = totals.setdefault((division, int(index.max())), np.zeros(int(index.max()) + 1, np.int64))
            np.add.at(total, index, _hash(states[name, axis]))
        for name, axis, division, index in divided:
            if (name, axis) in states:
                yield (name, axis), totals[division, int(index.max())][index]


def _analysed(model: onnx.ModelProto, masks: Mapping[str, Array]) -> tuple[gs.Graph, Facts]:
    graph = prepared(bind(model, masks), keep=masks)  # a mask of ones is looked at as well
    return graph, dataflow.analyse(graph)


def _axes(graph: gs.Graph, facts: Facts) -> list[tuple[gs.Tensor, int]]:
    """The axes, of static size, of what the nodes of a graph compute."""
    computed = [tensor for node in graph.nodes for tensor in node.outputs if not is_constant(tensor)]
    return [(tensor, axis) for tensor in computed for axis, _ in facts.axes(tensor)]


def _constant(facts: Facts, tensor: gs.Tensor, axis: int) -> Index:
    """Whether each slice is constant, and whether zero: int64 [size]."""
    return np.asarray(_CONSTANT * facts.constant_mask(tensor, axis) + _ZERO * facts.zero(tensor, axis), np.int64)


def _along(node: gs.Node, facts: Facts) -> Iterator[tuple[Key, Key]]:
    """Input and output axes that an operator works along, as a normalisation does.

    No slice is coupled with another there, but what one costs may depend on whether the same slice after it is read.
    """
    if not isinstance(rules(node), Linked):
        return
    links = facts.links(node)
    reached = {(True, k.input, k.input_axis) for k in links} | {(False, k.output, k.output_axis) for k in links}
    for (i, before), (o, after) in itertools.product(enumerate(node.inputs), enumerate(node.outputs)):
        shapes = shape_of(before), shape_of(after)
        if is_constant(before) or not shapes[0] or not shapes[1] or len(shapes[0]) != len(shapes[1]):
            continue
        for axis in range(len(shapes[0])):
            if (True, i, axis) not in reached and (False, o, axis) not in reached:
                yield (before.name, axis), (after.name, axis)


def _hash(values: Index) -> Index:
    """A hash of each value, such that a sum of hashes says which values it is of (wrapping 64-bit arithmetic)."""
    mixed = values.astype(np.uint64)
    with np.errstate(over="ignore"):
        for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
            mixed = (mixed ^ (mixed >> np.uint64(31)) ^ np.uint64(0x9E3779B97F4A7C15)) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(29))).view(np.int64)
