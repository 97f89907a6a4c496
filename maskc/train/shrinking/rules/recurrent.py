"""Shrinking rules of recurrent layers, whose units read each other: only input channels are removed."""

from __future__ import annotations

from typing import Any

from keras import layers

from maskc.train.shrinking.rules.base import Narrowed, Place, Rule, everything, known, slices, stored


def _recurrent(layer: Any, place: Place) -> Narrowed:
    result = everything(layer, place)
    taken = stored(place) | known(place.call.inputs[0]).nonzero
    return Narrowed([taken, *result.inputs[1:]], result.outputs, {}, {"kernel": slices(taken, None)})


def _bidirectional(layer: Any, place: Place) -> Narrowed | None:
    return _recurrent(layer, place) if type(layer.forward_layer) in RULES else None


RULES: dict[type, Rule] = {
    **dict.fromkeys((layers.LSTM, layers.GRU, layers.SimpleRNN), _recurrent),
    layers.Bidirectional: _bidirectional,
}
