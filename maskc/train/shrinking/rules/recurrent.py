"""Shrinking rules of recurrent layers: input channels are removed, and units that stay zero."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from keras import layers

from maskc.train.shrinking.known_channels import Mask
from maskc.train.shrinking.rules.base import Narrowed, Place, Rule, at_least_one, everything, known, slices, stored


def _inputs(layer: Any, place: Place) -> Narrowed:
    result = everything(layer, place)
    taken = stored(place) | known(place.call.inputs[0]).nonzero
    return Narrowed([taken, *result.inputs[1:]], result.outputs, {}, {"kernel": slices(taken, None)})


def _recurrent(layer: Any, place: Place) -> Narrowed:
    result, units = _inputs(layer, place), _units(layer, place)
    taken, gates = result.inputs[0], np.resize(units, layer.cell.kernel.shape[-1])
    weights = {"kernel": slices(taken, gates), "recurrent_kernel": slices(units, gates), "bias": slices(gates)}
    outputs = [None if output is None else np.resize(units, output.size) for output in result.outputs]
    return Narrowed(result.inputs, outputs, {"units": int(units.sum())}, weights)


def _units(layer: Any, place: Place) -> Mask:
    """The units that are not zero whatever they read, if their states begin with zero."""
    outputs = [channels for channels in place.call.outputs if channels is not None]
    if layer.stateful or not outputs or any(channels is not None for channels in place.call.inputs[1:]):
        return np.ones(layer.units, bool)
    alive = [(~channels.constant | channels.nonzero).reshape(-1, layer.units) for channels in outputs]
    return at_least_one(np.asarray(np.concatenate(alive).any(0)))  # of both directions, which may lie side by side


def loses_units(layer: Any) -> bool:
    """Whether a Bidirectional does: equally many in both directions, none of which hides another by a product."""
    one, other = layer.forward_layer, layer.backward_layer
    return type(one) is type(other) and one.units == other.units and layer.merge_mode != "mul"


def _bidirectional(layer: Any, place: Place) -> Narrowed | None:
    if type(layer.forward_layer) not in RULES or type(layer.backward_layer) not in RULES:
        return None
    if not loses_units(layer):
        return _inputs(layer, place)
    result, config = _recurrent(layer.forward_layer, place), layer.get_config()
    parts = {word: config[word] for word in ("layer", "backward_layer")}
    changed = {word: {**part, "config": {**part["config"], **result.config}} for word, part in parts.items()}
    return replace(result, config=changed)


RULES: dict[type, Rule] = {
    **dict.fromkeys((layers.LSTM, layers.GRU, layers.SimpleRNN), _recurrent),
    layers.Bidirectional: _bidirectional,
}
