"""Shrinking rules of recurrent layers: input channels are removed, and units that stay zero."""

from __future__ import annotations

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
    outputs = [None if output is None else units for output in result.outputs]
    return Narrowed(result.inputs, outputs, {"units": int(units.sum())}, weights)


def _units(layer: Any, place: Place) -> Mask:
    """The units that are not zero whatever they read, if their states begin with zero."""
    outputs = [channels for channels in place.call.outputs if channels is not None]
    if layer.stateful or not outputs or any(channels is not None for channels in place.call.inputs[1:]):
        return np.ones(layer.units, bool)
    return at_least_one(np.logical_or.reduce([~channels.constant | channels.nonzero for channels in outputs]))


RULES: dict[type, Rule] = {
    **dict.fromkeys((layers.LSTM, layers.GRU, layers.SimpleRNN), _recurrent),
    layers.Bidirectional: lambda layer, place: _inputs(layer, place) if type(layer.forward_layer) in RULES else None,
}
