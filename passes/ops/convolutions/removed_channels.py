"""Removed input channels of a convolution that hold constants: what its weights and other channels bring instead."""

from __future__ import annotations

import numpy as np

from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.slices import ConstantSlices
from passes.graph.tensors import Array, Mask


def bears(known: ConstantSlices | None, inputs: Mask, shift: Array) -> bool:
    """Whether a constant channel stays that can stand for those removed, which hold these constants."""
    return known is not None and bool(np.abs(known.value[inputs & known.mask]).max(initial=0) >= np.abs(shift).max())


def shift_of_removed(removed: Mask, known: ConstantSlices | None, dependence: LinearDependence | None) -> Array:
    """What removed channels hold beside multiples of their representatives, 0 in the others: [channels]."""
    shift = np.zeros(removed.shape) if known is None else np.where(known.mask & removed, known.value, 0)
    return shift if dependence is None else np.where(dependence.mask, dependence.shift, shift)


def fold_dependent(weights: Array, dependence: LinearDependence | None) -> Array:
    """Let representatives stand for the channels that depend on them."""
    if dependence is None:
        return weights
    return np.moveaxis(dependence.folded(np.moveaxis(weights, 1, 0), dependence.mask), 0, 1)


def fold_into_constant(weights: Array, shift: Array, inputs: Mask, known: ConstantSlices) -> Array:
    """Let the strongest constant channel that stays stand for those removed, borders included."""
    strength = np.where(inputs & known.mask, np.abs(known.value.astype(np.float64)), 0)
    representative = int(strength.argmax())
    used = np.flatnonzero(shift)
    ratio = shift[used].astype(np.float64) / float(known.value[representative])
    folded = np.tensordot(weights[:, used].astype(np.float64), ratio, axes=(1, 0))
    weights = weights.copy()
    weights[:, representative] = (weights[:, representative] + folded).astype(weights.dtype)
    return weights
