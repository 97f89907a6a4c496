"""Prices of adapters in FLOPs: restoring constants at a consumer's input, under each policy.

Everything else is priced against it: a slice is computed after all where that costs less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from passes.abstract_values.slices import Demand
from passes.graph.tensors import Dim

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

#: the policies of `--adapters`
Policy = Literal["auto", "always", "never"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_BY_POLICY: dict[Policy, float] = {
    "auto": FLOPS_PER_MOVED_ELEMENT,
    # so little that any saved FLOP outweighs it; not zero, so that nothing is moved without need
    "always": 1e-6,
    # more than any saving outweighs; finite, so that nothing moved costs nothing
    "never": 1e30,
}


def flops_per_moved_element(policy: Policy) -> float:
    """What moving an element costs under this policy. Raises ValueError for another word."""
    if policy not in POLICIES:
        raise ValueError(f"adapters must be one of {', '.join(POLICIES)}, and not {policy!r}.")
    return _BY_POLICY[policy]


def only_at_ends(stored: int, required: int) -> bool:
    """Whether what is stored only has to be padded at its ends, or cut there: `bits` of both."""
    inner, outer = stored & required, stored | required
    if inner not in (stored, required):
        return False
    span = (1 << inner.bit_length()) - (inner & -inner)  # from the first of them to the last
    return inner > 0 and outer & span == inner


def piece_size(shape: Sequence[Dim], axis: int) -> int:
    """Elements that lie together after one index of the axis."""
    return math.prod(d if isinstance(d, int) and d > 0 else _USUAL_SIZE for d in shape[axis + 1 :])


def of_moving(stored: int, required: int, slice_elements: float, piece: int, flops_per_element: float) -> float:
    """FLOPs that an adapter is worth which makes the `required` slices of those `stored`: `bits` of both.

    slice_elements: elements of one slice. piece: elements that lie together after one index of the axis.
    """
    elements = float(required.bit_count()) * slice_elements
    pieces = 0.0 if only_at_ends(stored, required) else MOVED_ELEMENTS_PER_PIECE / piece
    return flops_per_element * elements * (1 + pieces)


def at_input(stored: int, demand: Demand, dependent: int, moving: Callable[[int], float]) -> float:
    """FLOPs that a consumer's input costs: an adapter, or reading slices that the consumer does not need.

    dependent: slices that are computed from their representatives, as `bits`, like those `stored`. moving: what it
    takes to move the slices that are needed.
    """
    exact, need = not demand.flexible, demand.bits
    if exact and (stored == need or (demand.picked and not need & ~stored)):
        return 0.0
    missing, moved = need & ~stored, moving(need)
    if missing & dependent:
        moved *= _MOVES_OF_A_DEPENDENT_SLICE
    if exact or missing or not stored:
        return moved
    return min(moved, demand.flops * float((stored & ~need).bit_count()))
