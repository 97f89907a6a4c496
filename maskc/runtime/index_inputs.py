"""Inputs of a model that are used as indices, with the number of entries they pick from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto

from maskc.frontend.graph_queries import TensorType, all_nodes, array_of, tensor_types

# Operators that hand indices on to where they are used, or shift them within their range.
_INDEX_STEPS = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Expand", "Flatten", "Identity", "Max", "Min", "Mod", "Mul", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
)

# Operators that compare integers with others, and how many of these are kept.
_COMPARISONS = frozenset({"Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"})
_MOST_COMPARED = 64

# Numbers that are added to indices, as one for each field of a table that several share.
_MOST_OFFSETS = 4096

_TABLES = frozenset({"Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND"})


def entries_by_input(model: ModelProto) -> dict[str, int]:
    """The number of entries that each input which is used as an index picks from, by the name of the input."""
    types = tensor_types(model) if any(node.op_type in _TABLES for node in all_nodes(model)) else {}
    small = {t.name: t for t in model.graph.initializer if 0 < math.prod(t.dims) <= _MOST_OFFSETS}
    #: by tensor, of which inputs it has indices, and how far these are moved at least
    origins = {value.name: {value.name: 0} for value in model.graph.input if value.name not in small}
    limits: dict[str, int] = {}
    for node in all_nodes(model):
        index, entries = _picked(node, types, small)
        if entries:
            for name, moved in origins.get(index, {}).items():
                limits[name] = min(max(1, entries - moved), limits.get(name, entries))
        if node.op_type in _INDEX_STEPS or node.op_type in ("Gather", "GatherElements"):
            # What a table of indices holds is an index as well, but what picks from it is not.
            carried = node.input[:1] if node.op_type.startswith("Gather") else node.input
            constants = [array_of(small[name]) for name in node.input if name in small and node.op_type == "Add"]
            added = max([0, *(int(values.max()) for values in constants if values.dtype.kind in "iu")])
            found: dict[str, int] = {}
            for name, moved in (each for read in carried for each in origins.get(read, {}).items()):
                found[name] = min(found.get(name, moved + added), moved + added)  # on one way alone, only some may be
            origins |= dict.fromkeys(node.output, found)
    return limits


def compared_numbers(model: ModelProto) -> tuple[int, ...]:
    """Whole numbers that the model compares something with, such as the index that ends a text."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored |= {
        n.output[0]: a.t for n in all_nodes(model) if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    read = {name for node in all_nodes(model) if node.op_type in _COMPARISONS for name in node.input}
    small = [stored[name] for name in read & stored.keys() if math.prod(stored[name].dims) == 1]
    numbers = {float(array_of(tensor).reshape(())) for tensor in small if array_of(tensor).dtype.kind in "iuf"}
    return tuple(sorted(int(n) for n in numbers if n.is_integer() and abs(n) < 2**31)[:_MOST_COMPARED])


def _picked(
    node: NodeProto, types: Mapping[str, TensorType], small: Mapping[str, TensorProto]
) -> tuple[str, int | None]:
    """The index input of a node that picks from a table, and the table's number of entries, if known."""
    depth = small.get(node.input[1]) if node.op_type == "OneHot" and len(node.input) == 3 else None
    if depth is not None and math.prod(depth.dims) == 1:
        return node.input[0], int(array_of(depth).item())
    if node.op_type not in _TABLES or len(node.input) < 2:
        return "", None
    table, indices = (types.get(name, TensorType(0, None)).shape or () for name in node.input[:2])
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    axis = attributes.get("axis", 0)
    sizes = [table[axis]] if -len(table) <= axis < len(table) else []
    if node.op_type.endswith("ND"):
        # The last axis of the indices has a place along each of the table's first axes; the shortest holds for all.
        first, deep = attributes.get("batch_dims", 0), indices[-1] if indices else None
        sizes = [*table[first : first + deep]] if isinstance(deep, int) else []
    return node.input[1], min((size for size in sizes if isinstance(size, int)), default=None)
