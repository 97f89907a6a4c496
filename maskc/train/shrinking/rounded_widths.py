"""Widths of layers rounded up to multiples that TensorFlow's kernels on CPUs are fast with."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from maskc.train.mask_layer import mask_layers
from maskc.train.shrinking.known_channels import Calls, Channels, Mask, known_channels

# "auto" adds at most one channel to so many
_MOST = 16

RoundTo = int | Literal["auto"]


def rounded(model: Any, calls: Calls, round_to: RoundTo) -> Calls:
    """What is known of the calls in a model if its masks let through as many more channels as round widths need."""
    found = [(layer, call) for layer in mask_layers(model) for call in calls.get(id(layer), ())[:1]]
    before = [(layer.mask, layer.mask.numpy()) for layer, _ in found]
    try:
        for layer, call in found:
            source, result = call.inputs[0], call.outputs[0]
            if source is not None and result is not None and source.size == layer.mask.shape[0]:
                layer.mask.assign(np.where(_more(source, result, round_to), 1, layer.mask))
        return known_channels(model).calls
    finally:
        for variable, value in before:
            variable.assign(value)


def _more(source: Channels, result: Channels, round_to: RoundTo) -> Mask:
    """Which masked channels are computed beside those that are left: the first, which are the same in masks alike."""
    left, free = int(result.live.sum()), ~result.live & ~source.constant
    wanted = rounded_up(left, round_to) - left
    return free & (np.cumsum(free) <= (wanted if wanted <= free.sum() else 0))


def rounded_up(width: int, round_to: RoundTo) -> int:
    """The width, or a multiple above it.

    Normalisations, activations and depthwise convolutions are up to twice as fast at widths that fill vectors of 8 or
    4 numbers, while what dense convolutions take grows with every channel: so "auto" adds few in proportion.
    """
    if round_to != "auto":
        return -(-width // round_to) * round_to
    return next((up for up in (-(-width // 8) * 8, -(-width // 4) * 4) if _MOST * (up - width) <= width), width)
