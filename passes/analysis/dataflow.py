"""Constants forward, reads backward: two sweeps over the nodes that know no operator by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import MOST_PLACES, ConstantMap
from passes.abstract_values.slices import ConstantSlices, merge
from passes.graph.subgraphs import captured
from passes.graph.tensors import Array, Mask, is_constant, is_float, rank_of
from passes.ops import rules
from passes.ops.traits import DependenceTransfer, Distribution, NaturalSlices
from passes.rewriting.channel_facts import AxisMask, Facts


def analyse(
    graph: gs.Graph,
    around: Facts | None = None,
    inside: dict[int, Facts] | None = None,
    given: dict[tuple[str, int], ConstantSlices] | None = None,
    unread: Mapping[str, str] | None = None,
) -> Facts:
    """Facts of a graph whose nodes are in topological order and whose shapes are inferred.

    Of a subgraph, `around` are the facts of the graph that it stands in, and `given` what is known of its inputs, by
    name and axis; `inside` are the facts of its own subgraphs. `unread` are tensors in which only what nothing reads
    became constant, with those that they are taken for, "" where nothing is known of these.
    """
    facts = Facts(graph.opset, rules, inside=inside or {})
    if around is not None:
        own = {t.name for t in graph.inputs} | {t.name for n in graph.nodes for t in n.outputs}
        own |= {t.name for n in graph.nodes for t in n.inputs if is_constant(t)}
        facts.constant = {name: dict(axes) for name, axes in around.constant.items() if name not in own}
        facts.constant_map = {name: axes for name, axes in around.constant_map.items() if name not in own}
    for (name, axis), known in (given or {}).items():
        facts.constant.setdefault(name, {})[axis] = known
    _forward(graph, facts, unread or {})
    read_backward(graph, facts)
    return facts


@np.errstate(all="ignore")  # what overflows, or is no number, is not kept
def _forward(graph: gs.Graph, facts: Facts, unread: Mapping[str, str]) -> None:
    for node in graph.nodes:
        if (name := node.outputs[0].name) in unread:
            _keep_all(facts, unread[name], name)
            continue
        op = rules(node)
        _keep_constants(node, facts)
        for output, axis, constant_map in op.maps(node, facts):
            _keep_maps(facts, node.outputs[output], axis, constant_map, _finite if op.may_overflow else _given)
        if isinstance(op, Distribution) and (mean := op.sums_to_one(node, facts)) is not None:
            facts.sums[node.outputs[0].name] = mean
        for output, axis, natural in op.natural(node, facts) if isinstance(op, NaturalSlices) else ():
            if natural.any():
                facts.natural.setdefault(node.outputs[output].name, {})[axis] = natural
        all_natural = any(mask.all() for mask in facts.natural.get(name, {}).values())
        lowest = max(op.lowest(node, facts), 0.0 if all_natural else -math.inf)
        if lowest > -math.inf:
            facts.bound[node.outputs[0].name] = lowest
        _keep_dependences(node, facts)


def _keep_all(facts: Facts, source: str, name: str) -> None:
    """What is known of one tensor holds of another."""
    known: list[dict[str, Any]] = [facts.constant, facts.constant_map, facts.infinite, facts.bound, facts.natural]
    for of_tensors in known:
        if source in of_tensors:
            of_tensors[name] = of_tensors[source]


def _keep_constants(node: gs.Node, facts: Facts) -> None:
    for output, axis, known in rules(node).constants(node, facts):
        tensor = node.outputs[output]
        # a value that is not finite is left to the run time: nothing may be derived from it
        usable = known.mask & _finite(known.value)
        if usable.any() and facts.size(tensor, axis) is not None:
            facts.constant.setdefault(tensor.name, {})[axis] = ConstantSlices(usable, known.value)
        infinite = known.mask & (known.value == -math.inf)
        if infinite.any() and any(map(facts.may_be_infinite, node.inputs)):  # it is given, and no sum that overflows
            facts.infinite.setdefault(tensor.name, {})[axis] = ConstantSlices(infinite, known.value)


def _keep_dependences(node: gs.Node, facts: Facts) -> None:
    op = rules(node)
    for output, axis, dependence in op.linear_dependences(node, facts) if isinstance(op, DependenceTransfer) else ():
        tensor = node.outputs[output]
        constant = facts.constants(tensor, axis)
        left = dependence if constant is None else dependence.without(constant)
        if left is not None and facts.size(tensor, axis) is not None and is_float(tensor):  # factors are no integers
            facts.dependence[tensor.name, axis] = left


def _keep_maps(
    facts: Facts, tensor: gs.Tensor, axis: int, constant_map: ConstantMap, reliable: Callable[[Array], Mask]
) -> None:
    """Remember maps all of whose values are reliable: what is uniform among them as constants, the rest as they are."""
    if facts.size(tensor, axis) is None:
        return
    constant_map = constant_map.compact()
    others = [a for a in range(rank_of(tensor)) if a != axis]
    for rows, other in zip(constant_map.index, others, strict=True):
        if rows is not None and rows.size != facts.dim(tensor, other):
            return
    if not constant_map.value.size or constant_map.value[0].size > MOST_PLACES:
        return
    usable = reliable(constant_map.value)
    axes = facts.constant.get(tensor.name, {})
    new = constant_map.mask & ~axes[axis].mask if axis in axes else constant_map.mask
    if not usable.all():
        new = new & usable.reshape(len(constant_map.mask), -1).all(axis=1)
    uneven = new & constant_map.uneven
    if uneven.any():
        kept = ConstantMap(uneven, constant_map.value, constant_map.index)
        facts.constant_map.setdefault(tensor.name, {})[axis] = kept
    value = constant_map.value.reshape(len(new), -1)[:, 0]
    even = new & ~uneven & _finite(value)
    if even.any():
        first = ConstantSlices(even, value)
        facts.constant.setdefault(tensor.name, {})[axis] = merge(axes[axis], first) if axis in axes else first


def read_backward(graph: gs.Graph, facts: Facts, outputs: Mapping[int, AxisMask] | None = None) -> None:
    """Find out what is read, where this is of the outputs, by position, and the others are read whole."""
    facts.read = {}
    for place, tensor in enumerate(graph.outputs):
        facts.mark_read(tensor, (outputs or {}).get(place, {}))
    for node in reversed(graph.nodes):
        for tensor in captured(node):
            facts.mark_read(tensor, {})
        if not any(map(facts.is_live, node.outputs)):
            continue
        per_input: dict[int, AxisMask] = {}
        for index, axis, mask in rules(node).reads(node, facts):
            per_input.setdefault(index, {})[axis] = mask
        for index, tensor in enumerate(node.inputs):
            if not tensor.is_empty() and not is_constant(tensor):
                facts.mark_read(tensor, per_input.get(index, {}))


def _finite(value: Array) -> Mask:
    if value.dtype.kind in "iub":
        return np.ones(value.shape, bool)
    try:
        return np.isfinite(value)
    except TypeError:  # strings, objects
        return np.zeros(value.shape, bool)


def _given(value: Array) -> Mask:
    """Numbers that were not computed, of which minus infinity at a border is one."""
    return ~np.isnan(value) if value.dtype.kind == "f" else _finite(value)
