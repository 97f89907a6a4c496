"""Operators that work on each slice by itself, along its other axes: what is known of slices goes through them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import MOST_PLACES, ConstantMap
from passes.abstract_values.row_index import Rows
from passes.abstract_values.slices import Maps
from passes.graph.evaluate import evaluate
from passes.graph.tensors import Array, is_constant, is_float, present, size_of

if TYPE_CHECKING:
    from passes.rewriting.channel_facts import Facts


def maps_by_slices(node: gs.Node, facts: Facts, along: Collection[int]) -> Maps:
    """Maps of output 0 of an operator that works along these axes of input 0, and is the same along all others."""
    x = node.inputs[0]
    if is_constant(x) or not is_float(x) or not all(is_constant(t) for _, t in present(list(node.inputs)[1:])):
        return
    for axis in range(len(x.shape or ())):
        if axis in along or size_of(x, axis) is None or facts.constants(x, axis) is None:
            continue
        known = facts.maps(x, axis)
        found = None if known is None else _evaluated(node, facts, axis, known, along)
        if found is not None:
            yield 0, axis, found


def _evaluated(
    node: gs.Node, facts: Facts, axis: int, known: ConstantMap, along: Collection[int]
) -> ConstantMap | None:
    """The operator on the known slices alone, in double precision."""
    value, index = known.value[known.mask].astype(np.float64), list(known.index)
    for other in along:
        place, size = other - (other > axis), facts.size(node.inputs[0], other)
        rows = index[place]
        if not size or (rows is not None and rows.course is not None):
            return None
        value = np.take(value, np.zeros(size, np.int64) if rows is None else rows.places, axis=place + 1)
        index[place] = Rows(np.arange(size)) if size > 1 else None
        if value[0].size > MOST_PLACES:
            return None
    rest = [None if t.is_empty() else _wide(facts.value(t)) for t in list(node.inputs)[1:]]
    results = evaluate(node, facts.opset, [np.moveaxis(value, 0, axis), *rest])
    if results is None or results[0].shape != np.moveaxis(value, 0, axis).shape:
        return None
    full = np.zeros((known.mask.size, *value.shape[1:]), node.outputs[0].dtype or np.float32)
    full[known.mask] = np.moveaxis(results[0], axis, 0)
    return ConstantMap(known.mask, full, tuple(index))


def _wide(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype.kind == "f" else values
