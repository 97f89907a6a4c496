"""Shrinking rules of layers that move channels: concatenation, reshaping, transposition, indexing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from maskc.train.shrinking.known_channels import Mask
from maskc.train.shrinking.rules.base import Narrowed, Place, Rule, known, stored


def _concatenate(layer: Any, place: Place) -> Narrowed | None:
    if any(channels is None for channels in place.call.inputs) or not place.scalars:
        return None
    rank = len(place.call.shapes[1][0])
    if layer.axis not in (-1, rank - 1):
        given = place.wanted
        return Narrowed([given] * len(place.call.inputs), [given])
    taken = [stored(place, index) for index in range(len(place.call.inputs))]
    return Narrowed(taken, [np.concatenate(taken)])


def _in_shape(place: Place, argument: str, shape: Sequence[int]) -> Narrowed | None:
    """One that leaves the axis of channels alone, joins it with axes before it, or takes it apart into equal parts."""
    after = known(place.call.outputs[0]).size
    result = _merged(place, after) or _parted(place, after)
    if result is None or (given := result.outputs[0]) is None:
        return None
    result.config[argument] = (*shape[:-1], int(given.sum()))
    return result


def _transpose(operation: Any, place: Place) -> Narrowed | None:
    rank = len(place.call.shapes[0][0])
    if operation.axes is None or operation.axes[-1] not in (-1, rank - 1):
        return None
    return Narrowed([stored(place)], [stored(place)])


def _index(operation: Any, place: Place) -> Narrowed | None:
    """As in `x[:, 0]`: of other axes than that of the channels."""
    del operation
    taken, index = stored(place), list(place.others)
    if not all(isinstance(entry, (int, slice)) for entry in index):
        return None
    return Narrowed([taken], [taken]) if len(index) < len(place.call.shapes[0][0]) else None


def _merged(place: Place, size: int) -> Narrowed | None:
    """Channels that are repeated for each position of the axes that they are joined with."""
    before = place.call.shapes[0][0]
    taken = stored(place)
    if size % taken.size:
        return None
    times = size // taken.size
    joined = 1
    for position in range(2, len(before) + 1):  # the axes that are joined, from the last
        if joined == times:
            break
        size_of_axis = before[-position]
        if position == len(before) or size_of_axis is None:
            return None
        joined *= size_of_axis
    return Narrowed([taken], [np.tile(taken, times)]) if joined == times else None


def _parted(place: Place, size: int) -> Narrowed | None:
    taken = stored(place)
    if taken.size % size:
        return None
    parts = taken.reshape(-1, size)
    return Narrowed([taken], [parts[0]]) if (parts == parts[0]).all() and parts[0].any() else None


def _permute(layer: Any, place: Place) -> Narrowed | None:
    taken: Mask = stored(place)
    return Narrowed([taken], [taken]) if layer.dims[-1] == len(layer.dims) else None


RULES: dict[type, Rule] = {
    layers.Concatenate: _concatenate,
    layers.Flatten: lambda layer, place: _merged(place, known(place.call.outputs[0]).size),
    layers.Reshape: lambda layer, place: _in_shape(place, "target_shape", layer.target_shape),
    layers.Permute: _permute,
}

#: operations of `keras.ops`, by the names of their classes
BY_NAME: dict[str, Rule] = {
    "Concatenate": _concatenate,
    "GetItem": _index,
    "Reshape": lambda operation, place: _in_shape(place, "newshape", operation.newshape),
    "Transpose": _transpose,
}
