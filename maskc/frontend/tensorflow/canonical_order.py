"""Canonical order and numbering of a converted graph: the same model gives the same bytes.

tf2onnx keeps nodes in sets and numbers names as it goes, TensorFlow numbers its functions as a process makes them; so
nodes come out in another order every time.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from onnx import GraphProto, ModelProto

from maskc.frontend.graph_queries import all_nodes, rename_tensors
from passes.graph.nested_protos import bodies
from passes.model.set_nodes import set_nodes

# Numbers in names that say only when something was made.
_COUNTER = re.compile(r"(?:__|(?<=_frozen)_|(?<=_cond)_|(?<=_body)_)\d+")


def uncounted(name: str) -> str:
    """A name without the numbers that say only when something was made."""
    return _COUNTER.sub("", name)


def sort_by_name(graph: Any) -> None:
    """Order the nodes of a tf2onnx graph, and of graphs inside it, by their names."""
    graph.reset_nodes(sorted(graph.get_nodes(), key=lambda node: (uncounted(node.name), len(node.name), node.name)))
    for node in graph.get_nodes():
        for body in (node.get_body_graphs() or {}).values():
            sort_by_name(body)


def canonical(model: ModelProto) -> None:
    """Order nodes and initializers as the outputs need them, and number names in that order, in place.

    Names of the model's inputs and outputs stay.
    """
    _order(model.graph)
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    names = list(dict.fromkeys(_names(model.graph)))
    taken = {name for name in names if name in fixed or not _COUNTER.search(name)} | fixed
    numbers: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
    renamed: dict[str, str] = {}
    for name in names:
        if name not in taken:
            fresh = (f"{uncounted(name)}__{number}" for number in numbers[uncounted(name)])
            renamed[name] = next(other for other in fresh if other not in taken)
    rename_tensors(model.graph, renamed)
    for node in all_nodes(model):
        node.name = renamed.get(node.name, node.name)
        for body in bodies(node):
            body.name = uncounted(body.name)


def _order(graph: GraphProto) -> list[str]:
    """Order a graph; the names that it reads from outside, in the order in which it does."""
    reads = [[*node.input, *(name for body in bodies(node) for name in _order(body))] for node in graph.node]
    outputs = [value.name for value in graph.output]
    inside = {name for node in graph.node for name in node.output}
    inside |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    order = _from_outputs(graph, reads)
    used = [*dict.fromkeys(name for i in order for name in reads[i] if name), *outputs]
    set_nodes(graph, [graph.node[i] for i in order])
    rank = {name: i for i, name in enumerate(used)}
    graph.initializer.sort(key=lambda tensor: (rank.get(tensor.name, len(rank)), tensor.name))
    graph.value_info.sort(key=lambda value: rank.get(value.name, len(rank)))
    return [name for name in used if name not in inside]


def _from_outputs(graph: GraphProto, reads: list[list[str]]) -> list[int]:
    """Nodes in the depth-first order in which the outputs need them, and then those that nothing reads, by name."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    ends = sorted(range(len(graph.node)), key=lambda i: uncounted(graph.node[i].name))
    order: dict[int, None] = {}
    for end in [*(producer[value.name] for value in graph.output if value.name in producer), *ends]:
        stack = [(end, False)]
        while stack:
            i, done = stack.pop()
            if done:
                order[i] = None
            elif i not in order:
                stack.append((i, True))
                needed = (producer[name] for name in reversed(reads[i]) if name in producer)
                stack += [(j, False) for j in needed if j not in order]
    return list(order)


def _names(graph: GraphProto) -> Iterator[str]:
    """All names of a graph, in its order."""
    yield from (value.name for value in graph.input)
    for node in graph.node:
        yield from node.input
        for body in bodies(node):
            yield from _names(body)
        yield from node.output
        yield node.name
    yield from (tensor.name for tensor in graph.initializer)
    yield from (value.name for value in graph.output)
