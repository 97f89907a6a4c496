"""Inputs of a model that are used as indices, with the number of entries they pick from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from maskc.frontend.graph_queries import TensorType, all_nodes, tensor_types

# Operators that hand indices on to where they are used, or shift them within their range.
_INDEX_STEPS = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Expand", "Flatten", "Identity", "Max", "Min", "Mod", "Mul", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
)


def entries_by_input(model: ModelProto) -> dict[str, int]:
    """The number of entries that each input which is used as an index picks from, by the name of the input."""
    types = tensor_types(model)
    small = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if np.prod(tensor.dims) == 1
    }
    origins: dict[str, frozenset[str]] = {
        value.name: frozenset({value.name}) for value in model.graph.input if value.name not in small
    }
    limits: dict[str, int] = {}
    nothing: frozenset[str] = frozenset()
    for node in all_nodes(model):
        index, entries = _picked(node, types, small)
        if entries:
            for name in origins.get(index, nothing):
                limits[name] = min(entries, limits.get(name, entries))
        if node.op_type in _INDEX_STEPS or node.op_type in ("Gather", "GatherElements"):
            # What a table of indices holds is an index as well, but what picks from it is not.
            carried = node.input[:1] if node.op_type.startswith("Gather") else node.input
            origin = nothing.union(*(origins.get(name, nothing) for name in carried))
            for name in node.output:
                origins[name] = origin
    return limits


def _picked(
    node: NodeProto, types: Mapping[str, TensorType], small: Mapping[str, NDArray[Any]]
) -> tuple[str, int | None]:
    """The index input of a node that picks from a table, and the table's number of entries, if known."""
    find = _TABLES.get(node.op_type)
    if find is None or len(node.input) < 2:
        return "", None
    return find(node, types, small)


def _along_axis(
    node: NodeProto, types: Mapping[str, TensorType], small: Mapping[str, NDArray[Any]]
) -> tuple[str, int | None]:
    """One index along an axis of the table."""
    shape, axis = _shape(node, types), _attribute(node, "axis")
    size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    return node.input[1], size if isinstance(size, int) else None


def _along_first_axes(
    node: NodeProto, types: Mapping[str, TensorType], small: Mapping[str, NDArray[Any]]
) -> tuple[str, int | None]:
    """The last axis of the indices has a place along each of the table's first axes; the shortest holds for all."""
    if node.input[1] not in types:
        return "", None
    shape, first = _shape(node, types), _attribute(node, "batch_dims")
    deep = (types[node.input[1]].shape or (None,))[-1]
    sizes = shape[first : first + deep] if shape is not None and isinstance(deep, int) else ()
    return node.input[1], min((size for size in sizes if isinstance(size, int)), default=None)


def _one_hot(
    node: NodeProto, types: Mapping[str, TensorType], small: Mapping[str, NDArray[Any]]
) -> tuple[str, int | None]:
    """A one for each index, in as many places as a constant says."""
    if len(node.input) != 3 or node.input[1] not in small:
        return "", None
    return node.input[0], int(small[node.input[1]].ravel()[0])


# What picks from a table, by operator: the index input and the number of entries.
_TABLES = {
    **dict.fromkeys(("Gather", "GatherElements", "ScatterElements", "Scatter"), _along_axis),
    **dict.fromkeys(("GatherND", "ScatterND"), _along_first_axes),
    "OneHot": _one_hot,
}


def _shape(node: NodeProto, types: Mapping[str, TensorType]) -> tuple[int | str | None, ...] | None:
    """The shape of the table."""
    return types[node.input[0]].shape if node.input[0] in types else None


def _attribute(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)
