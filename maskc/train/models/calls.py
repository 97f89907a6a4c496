"""Traversal of the calls in functional Keras models, in the order of execution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras

from maskc.errors import InputError
from maskc.train.keras_internals import functional, nodes


def is_functional(operation: Any) -> bool:
    """Whether it is a model whose layers can be taken one by one."""
    return isinstance(operation, keras.Sequential) or (
        isinstance(operation, keras.Model) and isinstance(operation, keras.Function)
    )


def check_functional(who: str, model: Any, instead: str) -> None:
    """Raises InputError where a model is none whose layers can be taken one by one; `instead` says what to do."""
    if isinstance(model, keras.Sequential):
        instead = "Begin it with a keras.Input."
    elif inside := [name for name, value in getattr(model, "__dict__", {}).items() if is_functional(value)]:
        instead = f"Give it what it is made of, one by one: {', '.join(f'.{name}' for name in inside)}."
    if not is_functional(model) or not model.built:
        raise InputError(
            f"{who} needs a functional or Sequential model whose inputs are known, and "
            f"{getattr(model, 'name', type(model).__name__)!r} is not one. {instead}"
        )


def calls(graph: Any) -> Iterator[tuple[Any, tuple[int, int]]]:
    """The calls in a functional model, each with the id of its operation and which of its calls it is, from 1."""
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


def nodes_within(model: Any) -> Iterator[Any]:
    """The calls in a functional model, and at each call of a model in it those in that."""
    for node in nodes(functional(model)):
        yield node
        if is_functional(node.operation):
            yield from nodes_within(node.operation)


def visits(model: Any) -> Counter[int]:
    """How often each layer and operation is called when the model is, by its id."""
    return Counter(id(node.operation) for node in nodes_within(model))
