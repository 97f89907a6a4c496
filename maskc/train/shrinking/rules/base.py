"""Interface of the shrinking rules: a call of a layer, and the channels and weights that remain of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskc.train.shrinking.known_channels import Array, Call, Channels, Mask

Slicing = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class Narrowed:
    """What becomes of a layer. Sets of channels are bool `(channels,)`, and None for tensors without channels.

    Attributes:
        inputs: the channels that each input must have.
        outputs: those that each output then has.
        config: what is changed in the layer's configuration.
        weights: what is left of a variable, or of anything that has its shape, by the end of its path: `kernel`, or
            `query/kernel` of a layer in the layer. Others stay whole.
        added: what is added to a variable after that, by the end of its path; it may be a new one, which begins at 0.
    """

    inputs: Sequence[Mask | None]
    outputs: Sequence[Mask | None]
    config: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Slicing] = field(default_factory=dict)
    added: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Place:
    """A call of a layer, of each input the channels that the smaller model has computed, and its other arguments.

    Of inputs that are given by keywords, `keywords` has these; of others "".
    """

    call: Call
    stored: Sequence[Mask | None]
    others: Sequence[Any] = ()
    keywords: Sequence[str] = ()

    @property
    def scalars(self) -> bool:
        """Whether all other arguments are single values, and none an array whose slices would have to be chosen."""
        return all(np.ndim(other) == 0 for other in self.others if not isinstance(other, str))

    @property
    def wanted(self) -> Mask:
        """The channels that the first output must have."""
        return at_least_one(known(self.call.outputs[0]).live)


#: what becomes of a layer at a place; None where it must have all channels
Rule = Callable[[Any, Place], Narrowed | None]


def known(channels: Channels | None) -> Channels:
    """What is known of a tensor that must have channels for its layer to have a rule."""
    if channels is None:
        raise LookupError("a tensor without channels")
    return channels


def stored(place: Place, index: int = 0) -> Mask:
    """The channels that an input has."""
    result = place.stored[index]
    if result is None:
        raise LookupError("a tensor without channels")
    return result


def slices(*channels: Mask | None) -> Slicing:
    """Leaves these slices along the last axes, as many axes as there are sets; None: all."""

    def sliced(array: Array) -> Array:
        for axis, kept in enumerate(channels, array.ndim - len(channels)):
            array = array if kept is None else np.compress(kept, array, axis)
        return array

    return sliced


def at_least_one(channels: Mask) -> Mask:
    """The same, with the first where there is none: Keras's layers have at least one channel."""
    if channels.any():
        return channels
    return np.asarray(np.arange(channels.size) == 0)


def everything(layer: Any, place: Place) -> Narrowed:
    """The rule of layers that are not understood: they stay as they are."""
    del layer
    sides = place.call.inputs, place.call.outputs
    taken, given = ([None if c is None else np.ones(c.size, bool) for c in side] for side in sides)
    return Narrowed(taken, given)
