"""Constants of the data over all labels that a contraction sums over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import ConstantSlices
from passes.graph.tensors import Array, Mask, along, is_float
from passes.ops.contractions.labels import Label, Projection
from passes.rewriting.channel_facts import Facts


class Varied(NamedTuple):
    """Slices along one inner label, bool [size], that are what `value` [sizes of all inner labels] has of them."""

    mask: Mask
    value: Array


def varied(node: gs.Node, facts: Facts, projection: Projection, label: Label) -> Varied | None:
    """Slices along an inner label that differ along other inner labels alone, as a spline's at each of its knots."""
    data, axis = node.inputs[projection.data], projection.axis(label, projection.data)
    maps = facts.maps(data, axis) if len(projection.inner) > 1 and is_float(data) else None
    if maps is None or projection.repeats(node) is None:
        return None
    axes = [projection.axis(k, projection.data) for k in projection.inner]
    value = maps.value
    for place, rows in enumerate(maps.index, 1):
        if rows is not None and (rows.course is not None or place - (place <= axis) not in axes):
            return None
        value = value.take([0] if rows is None else rows.places, place)
    rest = [a for a in range(value.ndim) if a not in axes]
    inner = np.moveaxis(value, 0, axis).transpose([*rest, *axes])[(0,) * len(rest)]
    return Varied(maps.mask, np.broadcast_to(inner, [k.size for k in projection.inner]))


def together(constants: Sequence[ConstantSlices], others: Sequence[Varied | None]) -> ConstantSlices:
    """Constants along each of the inner labels as those over all of them, flattened; 0 (float64) elsewhere."""
    sizes = [known.mask.size for known in constants]
    mask, value = np.zeros(sizes, bool), np.zeros(sizes)
    for number, (known, other) in enumerate(zip(constants, others, strict=True)):
        shape = along(number, len(constants))
        own, more = known.mask.reshape(shape), np.False_ if other is None else other.mask.reshape(shape)
        value = np.where(more, 0 if other is None else other.value, value)
        mask, value = mask | own | more, np.where(own, known.value.reshape(shape), value)
    return ConstantSlices(mask.reshape(-1), value.reshape(-1))
