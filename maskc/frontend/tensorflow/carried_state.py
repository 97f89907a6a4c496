"""Refusal of functions whose outputs depend on variables that a call assigns: they go on from call to call."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from maskc.errors import InputError
from maskc.frontend.tensorflow import side_effects

_ASSIGNING = re.compile(r"Assign\w*|Resource(Scatter|StridedSliceAssign)\w*|Scatter(Add|Sub|Mul|Div|Min|Max|Update)")
CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def check(function: Any, name: str) -> None:
    """Raise `InputError` if a concrete function assigns a variable and its outputs depend on that.

    A file keeps nothing, and its first batch alone would be right. What is assigned and never read, as the averages of
    batch normalization in training mode, is of no consequence, and what is drawn at random has no ONNX form, which the
    conversion says.
    """
    graph = function.graph.as_graph_def()
    library = {definition.signature.name: definition for definition in graph.library.function}
    read = _needed(graph.node, (tensor.op.name for tensor in function.outputs), library)
    if (carried := next((node for node in _assigned(graph.node, library) if node in read), None)) is not None:
        raise InputError(
            f"{name} cannot be converted to ONNX: it goes on from batch to batch, as its outputs depend on the "
            f"variable '{_names(function).get(carried, carried)}', which it assigns, and a file keeps nothing. "
            "Build the model without that (for a layer of Keras, with stateful=False), and give it the weights."
        )


def remove_assignments(graph: Any) -> None:
    """Removes what assigns variables from a `GraphDef`, where `check` has passed."""
    for node in side_effects.nodes_of(graph):
        if _ASSIGNING.fullmatch(node.op):
            rest = [tensor for tensor in node.input if tensor.startswith("^")]
            node.op = "NoOp"
            del node.input[:]
            node.input.extend(rest)
            node.attr.clear()


def _names(function: Any) -> dict[str, str]:
    """Names of variables by the nodes that stand for them in a concrete function."""
    names = {id(variable.handle): variable.name.partition(":")[0] for variable in function.variables}
    captures = function.graph.captures
    return {inner.op.name: names[id(outer)] for outer, inner in captures if id(outer) in names}


def _node(tensor: str) -> str:
    """The node that a tensor is of, whose name an input of another node gives."""
    return tensor.partition(":")[0]


def _assigned(nodes: Iterable[Any], library: Mapping[str, Any]) -> Iterator[str]:
    """Nodes that stand for variables which are assigned, in functions that are called as well."""
    for node in nodes:
        if _ASSIGNING.fullmatch(node.op):
            yield _node(node.input[0])
        data = [tensor for tensor in node.input if not tensor.startswith("^")]
        for called in _called(node, library):
            arguments = [argument.name for argument in called.signature.input_arg]
            given = dict(zip(reversed(arguments), reversed(data), strict=False))  # after a condition, or with more
            yield from (_node(given[inner]) for inner in _assigned(called.node_def, library) if inner in given)


def _needed(nodes: Iterable[Any], outputs: Iterable[str], library: Mapping[str, Any]) -> set[str]:
    """Nodes that these outputs depend on by their values; what may be skipped or repeated depends on all its inputs."""
    by_name = {node.name: node for node in nodes}
    needed: set[str] = set()
    left = list(outputs)
    while left:
        name = left.pop()
        if name in needed:
            continue
        needed.add(name)
        node = by_name.get(name)  # None for an argument
        if node is None or "Random" in node.op:
            continue
        data = [tensor for tensor in node.input if not tensor.startswith("^")]
        for called in _called(node, library) if node.op in CALLS else ():
            inner = _needed(called.node_def, map(_node, called.ret.values()), library)
            arguments = [argument.name for argument in called.signature.input_arg]
            data = [given for argument, given in zip(arguments, data, strict=True) if argument in inner]
        left += map(_node, data)
    return needed


def _called(node: Any, library: Mapping[str, Any]) -> list[Any]:
    """Definitions of the functions that a node calls."""
    values = (each for value in node.attr.values() for each in (value.func, *value.list.func))
    return [library[value.name] for value in values if value.name in library]
