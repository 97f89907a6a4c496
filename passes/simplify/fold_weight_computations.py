"""Compute weights that several nodes make of others, where only their ends need be stored.

A normalised weight (weight normalisation, weight standardisation) reads its source two or three times, and an update
of low rank (LoRA) is a product larger than its factors: node by node, the file would grow for a while.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx_graphsurgeon as gs

from passes.graph.construct import snapshot
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import SMALL, Array, is_constant, is_standard, present, static_shape, values_of
from passes.ops import rules
from passes.weights.quantized import Quantized
from passes.weights.streaming import LARGE, Lazy, Made, lazy

#: nodes, each with the ids of its operands and results, so that they can be computed again once the graph is another
Steps = list[gs.Node]


def made_of_constants(graph: gs.Graph, keep: Collection[str] = ()) -> list[tuple[gs.Tensor, Array | Lazy]]:
    """What groups of nodes make of initializers alone, for other nodes to read: the tensors and their values.

    Only where that takes no more elements than the initializers that no other node reads, and not of those in `keep`.
    """
    outputs = {id(t) for t in graph.outputs}
    found: list[tuple[gs.Tensor, Array | Lazy]] = []
    for group in _groups(graph, keep):
        members = {id(n) for n in group}
        ends = [t for n in group for t in n.outputs if any(id(r) not in members for r in t.outputs)]
        if len(group) > 1 and ends and not any(id(t) in outputs for n in group for t in n.outputs):
            found += _of_group(group, members, ends, graph.opset)
    return found


def _groups(graph: gs.Graph, keep: Collection[str]) -> list[list[gs.Node]]:
    """Nodes that depend on initializers alone, in order, those that share large ones or results together."""
    groups: dict[int, list[gs.Node]] = {}  # by the id of a tensor that its nodes read or write
    for node in graph.nodes:
        first = node.inputs[0] if node.inputs else None
        if not isinstance(first, gs.Constant) and id(first) not in groups:
            continue  # nearly all: an operator's first operand is its data
        operands = [t for _, t in present(node.inputs)]
        plain = is_standard(node) and rules(node).foldable and not subgraphs(node)
        if not plain or not all(id(t) in groups or (_initializer(t) and t.name not in keep) for t in operands):
            continue
        tensors = [t for t in operands if not is_constant(t) or math.prod(t.shape) > SMALL]
        group = _joined(groups, tensors)
        group.append(node)
        groups |= {id(t): group for t in [*tensors, *node.outputs] if not t.is_empty()}
    place = {id(n): i for i, n in enumerate(graph.nodes)} if groups else {}
    return [sorted(nodes, key=lambda n: place[id(n)]) for nodes in {id(g): g for g in groups.values()}.values()]


def _joined(groups: dict[int, list[gs.Node]], tensors: list[gs.Tensor]) -> list[gs.Node]:
    """The groups of these tensors as one: the smaller ones are put into the largest."""
    joined: list[gs.Node] = []
    for other in {id(g): g for t in tensors if (g := groups.get(id(t))) is not None}.values():
        joined, less = (joined, other) if len(joined) >= len(other) else (other, joined)
        joined += less
        groups |= {id(t): joined for n in less for t in [*n.inputs, *n.outputs] if groups.get(id(t)) is less}
    return joined


def _initializer(tensor: gs.Tensor) -> bool:
    return is_constant(tensor) and not isinstance(tensor, Quantized) and not isinstance(tensor.dtype, int)


def _of_group(
    group: list[gs.Node], members: set[int], ends: list[gs.Tensor], opset: int
) -> list[tuple[gs.Tensor, Array | Lazy]]:
    sources = {id(t): t for n in group for _, t in present(n.inputs) if is_constant(t)}
    room = sum(math.prod(t.shape) for t in sources.values() if all(id(r) in members for r in t.outputs))
    shapes = [static_shape(t) for n in group for t in n.outputs if t.outputs]
    if any(shape is None or math.prod(shape) > max(room, SMALL) for shape in shapes):
        return []
    results = computed(group, ends, opset, room)
    return [] if results is None else list(zip(ends, results, strict=True))


def computed(nodes: list[gs.Node], wanted: list[gs.Tensor], opset: int, room: int) -> list[Array | Lazy] | None:
    """What the nodes make of initializers alone; None where it cannot be had, or takes more than `room` elements.

    Large results are computed whenever they are asked for, where their sources are not kept in memory either.
    """
    steps = [snapshot(node) for node in nodes]
    results = _run(steps, opset)
    if results is None or any(id(t) not in results for t in wanted):
        return None
    if sum(results[id(t)].size for t in wanted) > room:
        return None
    on_disk = any(stored.on_disk for n in nodes for t in n.inputs if (stored := lazy(t)) is not None)
    return [_again(steps, opset, id(t), results[id(t)]) if on_disk else results[id(t)] for t in wanted]


def _run(steps: Steps, opset: int) -> dict[int, Array] | None:
    """The results by the id of their tensors; None where one cannot be had."""
    values: dict[int, Array] = {}
    for step in steps:
        operands = [None if t.is_empty() else values[id(t)] if id(t) in values else values_of(t) for t in step.inputs]
        results = rules(step).computed(step, opset, operands) or []
        made = {id(t): (t, r) for t, r in zip(step.outputs, results, strict=False) if not t.is_empty()}
        if any(static_shape(t) not in (None, r.shape) for t, r in made.values()):
            return None  # the reference implementation is wrong about some operators
        if any(t.outputs and id(t) not in made for t in step.outputs):
            return None
        values |= {key: result for key, (_, result) in made.items()}
    return values


def _again(steps: Steps, opset: int, tensor: int, result: Array) -> Array | Lazy:
    """What computes a large result whenever it is asked for, as its sources are not kept in memory either."""
    if result.nbytes < LARGE:
        return result

    def made() -> Array:
        results = _run(steps, opset)
        assert results is not None  # it could be had before
        return results[tensor]

    return Made(result.shape, result.dtype, made)
