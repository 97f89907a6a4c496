"""What a rule says of slices: constants, demands, links, as vectors along one axis of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.linear_dependence import LinearDependence
from passes.graph.tensors import Array, Index, Mask

if TYPE_CHECKING:
    from passes.abstract_values.constant_maps import ConstantMap


@dataclass(eq=False)  # made by the thousand, and a frozen one takes four times as long to make
class ConstantSlices:
    """Slices along one axis that hold one constant throughout, whatever the input.

    `mask[i]` says whether slice i does; `value[i]`, in the tensor's dtype, is then its value.
    """

    mask: Mask
    value: Array


@dataclass(eq=False)
class Demand:
    """What a consumer must find along one axis of an operand.

    `need` marks the slices. An exact demand wants these and no others, in order; a `flexible` one takes any set that
    holds them (its weights are sliced to what is there). `optional`: an empty set is fine, the operand is left out.
    `reason` is for people; `echo` names the output axis whose stored set is simply passed on, so that the explanation
    is the one given there; slice j there is slice `order[j]` here (None: j). `flops` is the cost of reading one slice
    that is not needed.
    """

    need: Mask
    flexible: bool = False
    optional: bool = False
    reason: str = ""
    echo: tuple[int, int] | None = None
    order: Index | None = None
    flops: float = 0.0


Constants = Iterator[tuple[int, int, ConstantSlices]]  # output, axis, what is known


Maps = Iterator[tuple[int, int, "ConstantMap"]]  # output, axis, what is known


Dependences = Iterator[tuple[int, int, LinearDependence]]  # output, axis, slices that follow from others


Place = tuple[gs.Tensor, int]  # tensor, axis


Couples = Iterator[tuple[Place, Place, Index | None]]  # slice j of the second goes with slice index[j] of the first


Reads = Iterator[tuple[int, int, Mask]]  # input, axis, slices read; an axis that is not mentioned is read whole


Sets = dict[tuple[int, int], Mask]  # (output, axis) -> slices; an axis that is not mentioned is whole


Demands = dict[tuple[int, int], Demand]  # (input, axis) -> demand; an axis that is not mentioned is seen whole


@dataclass(eq=False)
class Link:
    """Slice j of an output comes from slice `source[j]` of an input (-1: from elsewhere); None: the same index.

    When one input axis becomes several output axes (`split`) it is the other way round: slice i of the input goes to
    slice `source[i]` of the output.
    """

    input: int
    input_axis: int
    output: int
    output_axis: int
    source: Index | None = None
    split: bool = False


def merge(a: ConstantSlices, b: ConstantSlices) -> ConstantSlices:
    """What either says."""
    return ConstantSlices(a.mask | b.mask, np.where(a.mask, a.value, b.value))
