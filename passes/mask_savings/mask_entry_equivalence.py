"""Equivalence classes of groups of mask entries: groups that play the same part in a graph save the same."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.graph.tensors import Array, Index, is_constant, shape_of, size_of
from passes.model.inputs import bind
from passes.model.prepare import prepared
from passes.ops import Link, Linked, rules
from passes.ops.convolution import partitions
from passes.pipeline.order import GraphPlan
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key

#: by name of the tensor and axis, what becomes of each slice when its entry of a mask is zeroed: int64 [size]
Zeroed = dict[Key, Index]


def when_zeroed(model: onnx.ModelProto, masks: Mapping[str, Array]) -> Zeroed:
    """Whether each slice is constant when its entry of a mask is zeroed, or zero, and uniform.

    Whether a channel without input is zero after a bias and a Relu is decided by the weights, and by it what the
    channel costs then. So entries are not equivalent whose channels become different things. All entries of all masks
    but one each are zeroed at once, once all but the first and once all but the last: what mixes channels still has an
    input, and what keeps them apart has none. Only the sizes of the masks matter.
    """
    found: Zeroed = {}
    for kept in (0, -1):
        trial = {name: np.zeros(len(mask)) for name, mask in masks.items()}
        for mask in trial.values():
            mask[kept : kept + 1 or None] = 1
        graph = prepared(bind(model, trial), keep=masks)
        facts = dataflow.analyse(graph)
        for tensor in (t for node in graph.nodes for t in node.outputs if not is_constant(t)):
            for axis in range(len(shape_of(tensor) or ())):
                size, constant = size_of(tensor, axis), facts.constants(tensor, axis)
                if not size or constant is None:
                    continue
                state = constant.astype(np.int64) + _known(facts, tensor, axis)
                key = tensor.name, axis
                found[key] = np.maximum(found.get(key, 0), state)  # of what is kept, the other time says it
    return found


def equivalence_classes(
    graph: gs.Graph,
    plan: GraphPlan,
    masks: Mapping[str, Array],
    group: Index,
    coupling: Mapping[str, Index],
    zeroed: Zeroed,
) -> Index:
    """A hash for each group, the same for groups of equivalent entries that are coupled alike: int64 [groups].

    group: for each entry of the masks, one after the other, its group, or -1. coupling: what `coupled` says of them.
    """
    labels = _labels(graph, plan, masks, zeroed)
    offsets = np.cumsum([0, *(len(mask) for mask in masks.values())])
    label = np.concatenate(
        [
            labels.get((name, 0), np.arange(len(mask)) + offset) + offset * np.int64(7919)
            for (name, mask), offset in zip(masks.items(), offsets, strict=False)
        ]
    )
    member = np.flatnonzero(group >= 0)
    part = np.concatenate([coupling[name] for name in masks])[member]
    pairs, which = np.unique(np.stack([group[member], part], axis=1), axis=0, return_inverse=True)
    inner, outer = np.zeros(len(pairs), np.int64), np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    np.add.at(inner, which.reshape(-1), _mix(label[member], label[member]))
    np.add.at(outer, pairs[:, 0], _mix(inner, inner))
    return outer


def _labels(graph: gs.Graph, plan: GraphPlan, masks: Collection[str], zeroed: Zeroed) -> dict[Key, Index]:
    """A number for each slice, the same for slices of one axis that play the same part in the graph.

    Starts from what is known and stored of each slice and what becomes of it when it is masked, then gathers along
    links in both directions what is connected to it, as in colour refinement. Initializers other than masks keep what
    they start from: two layers that share one have nothing to do with each other.
    """
    found = plan.facts
    labels: dict[Key, Index] = {}
    links: list[tuple[Key, Key, Link]] = []
    divisions: list[tuple[Key, list[Index]]] = []
    tensors = {t.name: t for n in graph.nodes for t in [*n.inputs, *n.outputs] if not t.is_empty()}
    fixed = {name for name, tensor in tensors.items() if is_constant(tensor) and name not in masks}
    for place, (name, tensor) in enumerate(tensors.items()):
        for axis in range(len(shape_of(tensor) or ())):
            size = size_of(tensor, axis)
            if size:
                state, masked = _start(plan, tensor, axis, size), zeroed.get((name, axis))
                if masked is not None and len(masked) == size:
                    state = state + 16 * masked
                labels[name, axis] = state * 1000003 + place * 31 + axis
    for node in graph.nodes:
        op = rules(node)
        if isinstance(op, Linked):
            links += [
                ((node.inputs[k.input].name, k.input_axis), (node.outputs[k.output].name, k.output_axis), k)
                for k in found.links(node)
            ]
            links += [(before, after, Link(0, 0, 0, 0)) for before, after in _along(node, found)]
            continue
        for (first, a), (second, b), index in op.couples(node, found):
            links.append(((first.name, a), (second.name, b), Link(0, a, 0, b, index)))
        divisions += [((tensor.name, axis), classes) for (tensor, axis), classes in partitions(node, found)]
    for _ in range(2):
        for source, target, link in [*links, *reversed(links)]:
            if source not in labels or target not in labels:
                continue
            before, labels[target] = _joined(labels[source], labels[target], link)
            if source[0] not in fixed:
                labels[source] = before
        for key, classes in divisions:
            for index in classes if key in labels else ():
                gathered = np.zeros(int(index.max()) + 1, np.int64)
                np.add.at(gathered, index, _mix(labels[key], labels[key]))
                labels[key] = _mix(labels[key], gathered[index])
    return labels


def _along(node: gs.Node, found: Facts) -> Iterator[tuple[Key, Key]]:
    """Input and output axes that an operator works along, as a normalisation does.

    No slice is coupled with another there, but what one costs may depend on whether the same slice after it is read.
    """
    reached = {(True, k.input, k.input_axis) for k in found.links(node)}
    reached |= {(False, k.output, k.output_axis) for k in found.links(node)}
    for (i, before), (o, after) in itertools.product(enumerate(node.inputs), enumerate(node.outputs)):
        shapes = shape_of(before), shape_of(after)
        if is_constant(before) or not shapes[0] or not shapes[1] or len(shapes[0]) != len(shapes[1]):
            continue
        for axis in range(len(shapes[0])):
            if (True, i, axis) not in reached and (False, o, axis) not in reached:
                yield (before.name, axis), (after.name, axis)


def _joined(a: Index, b: Index, link: Link) -> tuple[Index, Index]:
    """Labels of a linked input and output axis, each with the other's gathered in."""
    if link.source is None and a.size != b.size:
        return a, b
    before, after = link.pairs(a.size)
    from_b, from_a = np.zeros_like(a), np.zeros_like(b)
    np.add.at(from_b, before, _mix(b, b)[after])
    np.add.at(from_a, after, _mix(a, a)[before])
    return _mix(a, from_b), _mix(b, from_a)


def _start(plan: GraphPlan, tensor: gs.Tensor, axis: int, size: int) -> Index:
    facts = plan.facts
    if is_constant(tensor):
        value = facts.value(tensor) if len(tensor.shape) == 1 else np.ones(size)
        return (value == 0).astype(np.int64) if value.dtype.kind in "fiub" else np.zeros(size, np.int64)
    stays = plan.plan.stays(tensor.name, axis, size)
    return np.asarray(_known(facts, tensor, axis) + 4 * stays + 8 * facts.live(tensor, axis), np.int64)


def _known(facts: Facts, tensor: gs.Tensor, axis: int) -> Index | int:
    """1 for slices that are uniform constants, 3 for those that are zero, 0 for others."""
    known = facts.known(tensor, axis)
    return 0 if known is None else known.mask + 2 * (known.mask & (known.value == 0))


def _mix(a: Index, b: Index) -> Index:
    """A hash of both, element by element (wrapping 64-bit arithmetic)."""
    with np.errstate(over="ignore"):
        return (a * np.int64(6364136223846793005) ^ (b + np.int64(1442695040888963407))) * np.int64(2862933555777941757)
