"""What an adapter costs, in FLOPs: the price of restoring constants at a consumer's input, under each policy.

Everything else is priced against it: a slice is computed after all where that costs less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.slices import Demand
from passes.graph.tensors import Dim, Mask, any_set

# An adapter moves every element it delivers once. Measured in ONNX Runtime on one core, moving an element takes about
# as long as 32 multiply-adds of a convolution or matrix product.
FLOPS_PER_MOVED_ELEMENT = 64.0

# A Gather copies piece by piece, all that lies after one index of its axis, and a piece takes 7 to 10 ns whatever its
# size. Along the last axis, where each element is a piece, that is as long as 400 multiply-adds of a matrix product (at
# 107 GFLOPs a second on one core: 7.4 ns an element, against 0.3 ns for padding at the end).
MOVED_ELEMENTS_PER_PIECE = 800.0 / FLOPS_PER_MOVED_ELEMENT

# What is not static among the sizes after an axis, such as height and width of an image, is not small.
_USUAL_SIZE = 32


# A slice that is computed from its representative is gathered, scaled and added.
_MOVES_OF_A_DEPENDENT_SLICE = 3


def only_at_ends(stored: Mask, required: Mask) -> bool:
    """Whether what is stored only has to be padded at its ends, or cut there."""
    widened = any_set(required & ~stored)
    if widened and any_set(stored & ~required):
        return False
    inner, outer = (stored, required) if widened else (required, stored)
    order = np.flatnonzero(inner[outer])
    return order.size > 0 and int(order[-1] - order[0]) + 1 == order.size


def piece_size(shape: Sequence[Dim], axis: int) -> int:
    """Elements that lie together after one index of the axis."""
    return math.prod(d if isinstance(d, int) and d > 0 else _USUAL_SIZE for d in shape[axis + 1 :])


def of_moving(stored: Mask, required: Mask, slice_elements: float, piece: int, flops_per_element: float) -> float:
    """FLOPs that an adapter is worth which makes the `required` slices of those `stored`: bool [size] both.

    slice_elements: elements of one slice. piece: elements that lie together after one index of the axis.
    """
    elements = float(np.count_nonzero(required)) * slice_elements
    pieces = 0.0 if only_at_ends(stored, required) else MOVED_ELEMENTS_PER_PIECE / piece
    return flops_per_element * elements * (1 + pieces)


def at_input(
    stored: Mask, demand: Demand, dependence: LinearDependence | None, moving: Callable[[Mask], float]
) -> float:
    """FLOPs that a consumer's input costs: an adapter, or reading slices that the consumer does not need.

    moving: what it takes to move the slices that are needed.
    """
    exact = not demand.flexible
    if exact and not any_set(stored ^ demand.need):
        return 0.0
    missing = any_set(demand.need & ~stored)
    moved = moving(demand.need)
    if missing and dependence is not None and any_set(demand.need & dependence.mask & ~stored):
        moved *= _MOVES_OF_A_DEPENDENT_SLICE
    if exact or missing or not any_set(stored):
        return moved
    return min(moved, demand.flops * float(np.count_nonzero(stored & ~demand.need)))
