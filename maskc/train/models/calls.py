"""The calls of layers in functional models, in the order in which Keras makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.models import Functional


def is_functional(operation: Any) -> bool:
    """Whether it is a model whose layers can be taken one by one."""
    return isinstance(operation, (Functional, keras.Sequential))


def functional(model: Any) -> Any:
    """The functional model of a Sequential one; any other as it is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def nodes(graph: Any) -> list[Any]:
    """The calls in a functional model, in the order in which Keras makes them again."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth] if not node.is_input]


def calls(graph: Any) -> Iterator[tuple[Any, tuple[int, int]]]:
    """The same, each with the id of its operation and which of the operation's calls it is, from 1."""
    called: Counter[int] = Counter()
    for node in nodes(graph):
        called[id(node.operation)] += 1
        yield node, (id(node.operation), called[id(node.operation)])


def gives(node: Any, graph: Any) -> bool:
    """Whether a call gives a functional model one of its outputs."""
    outputs = {id(tensor) for tensor in keras.tree.flatten(graph.outputs)}
    return any(id(tensor) in outputs for tensor in node.outputs)


def last_calls(model: Any) -> set[tuple[int, int]]:
    """The calls that give a model its outputs."""
    graph = functional(model)
    return {call for node, call in calls(graph) if gives(node, graph)}


def visits(model: Any) -> Counter[int]:
    """How often each layer and operation is called when the model is, by its id."""
    found: Counter[int] = Counter()
    for node in nodes(functional(model)):
        found[id(node.operation)] += 1
        if is_functional(node.operation):
            found += visits(node.operation)
    return found
