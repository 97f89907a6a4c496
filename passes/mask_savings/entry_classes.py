"""Which groups of mask entries play the same part in a graph, so that one of a kind speaks for all."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Array, Index, is_constant, shape_of, size_of
from passes.mask_savings.fates import Fates
from passes.ops import Link, Linked, rules
from passes.ops.convolution import partitions
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan

Labels = dict[tuple[str, int], Index]


def kinds(
    graph: gs.Graph,
    found: Facts,
    plan: StoragePlan,
    masks: Mapping[str, Array],
    group: Index,
    structure: Mapping[str, Index],
    fate: Fates,
) -> Index:
    """A hash for each group, the same for groups that hold like entries, coupled in like ways: int64 [groups].

    group: for each entry of the masks, one after the other, its group, or -1. structure: what `coupled` says of them.
    fate: what `fates` says of the slices.
    """
    labels = _labels(graph, found, plan, masks, fate)
    offsets = np.cumsum([0, *(len(mask) for mask in masks.values())])
    label = np.concatenate(
        [
            labels.get((name, 0), np.arange(len(mask)) + offset) + offset * np.int64(7919)
            for (name, mask), offset in zip(masks.items(), offsets, strict=False)
        ]
    )
    member = np.flatnonzero(group >= 0)
    part = np.concatenate([structure[name] for name in masks])[member]
    pairs, which = np.unique(np.stack([group[member], part], axis=1), axis=0, return_inverse=True)
    inner, outer = np.zeros(len(pairs), np.int64), np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    np.add.at(inner, which.reshape(-1), _mix(label[member], label[member]))
    np.add.at(outer, pairs[:, 0], _mix(inner, inner))
    return outer


def _labels(graph: gs.Graph, found: Facts, plan: StoragePlan, masks: Collection[str], fate: Fates) -> Labels:
    """A number for each slice, the same for slices of one axis that play the same part in the graph.

    Starts from what is known and stored of each slice and how it may end, then gathers along links in both directions
    what is connected to it, as in colour refinement. Initializers other than masks keep what they start from: two
    layers that share one have nothing to do with each other.
    """
    labels: Labels = {}
    links: list[tuple[tuple[str, int], tuple[str, int], Link | None]] = []
    divisions: list[tuple[tuple[str, int], list[Index]]] = []
    tensors = {t.name: t for n in graph.nodes for t in [*n.inputs, *n.outputs] if not t.is_empty()}
    fixed = {name for name, tensor in tensors.items() if is_constant(tensor) and name not in masks}
    for place, (name, tensor) in enumerate(tensors.items()):
        for axis in range(len(shape_of(tensor) or ())):
            size = size_of(tensor, axis)
            if size:
                state = _start(found, plan, tensor, axis, size)
                ends = fate.get((name, axis), np.zeros(size, np.int64))
                if len(ends) == size:
                    state = state + 16 * ends
                labels[name, axis] = state * 1000003 + place * 31 + axis
    for node in graph.nodes:
        op = rules(node)
        if isinstance(op, Linked):
            links += [
                ((node.inputs[k.input].name, k.input_axis), (node.outputs[k.output].name, k.output_axis), k)
                for k in found.links(node)
            ]
            links += [(before, after, None) for before, after in _along(node, found)]
            continue
        for (first, a), (second, b), index in op.couples(node, found):
            links.append(((first.name, a), (second.name, b), None if index is None else Link(0, a, 0, b, index)))
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


def _along(node: gs.Node, found: Facts) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """Input and output axes that an operator works along, as a normalisation does.

    No slice goes with another there, but what one costs may turn on whether the same slice behind is read.
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


def _joined(a: Index, b: Index, link: Link | None) -> tuple[Index, Index]:
    """Labels of a linked input and output axis, each with the other's gathered in."""
    link = link or Link(0, 0, 0, 0)
    if link.source is None and a.size != b.size:
        return a, b
    before, after = link.pairs(a.size)
    from_b, from_a = np.zeros_like(a), np.zeros_like(b)
    np.add.at(from_b, before, _mix(b, b)[after])
    np.add.at(from_a, after, _mix(a, a)[before])
    return _mix(a, from_b), _mix(b, from_a)


def _start(found: Facts, plan: StoragePlan, tensor: gs.Tensor, axis: int, size: int) -> Index:
    state = np.zeros(size, np.int64)
    if is_constant(tensor):
        if len(tensor.shape) == 1 and size == tensor.shape[0]:
            value = found.value(tensor)
            return (value == 0).astype(np.int64) if value.dtype.kind in "fiub" else state
        return state
    known = found.known(tensor, axis)
    if known is not None:
        state = state + known.mask + 2 * (known.mask & (known.value == 0))
    return np.asarray(state + 4 * plan.stays(tensor.name, axis, size) + 8 * found.live(tensor, axis))


def _mix(a: Index, b: Index) -> Index:
    """A hash of both, element by element (wrapping 64-bit arithmetic)."""
    with np.errstate(over="ignore"):
        return (a * np.int64(6364136223846793005) ^ (b + np.int64(1442695040888963407))) * np.int64(2862933555777941757)
