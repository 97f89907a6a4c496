"""Vectors over the slices of an axis: constants, demands and links."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap
from passes.abstract_values.kept_reasons import Reason
from passes.abstract_values.linear_dependence import LinearDependence
from passes.graph.tensors import Array, Index, Mask, bits


@dataclass(eq=False)  # made by the thousand, and a frozen one takes four times as long to make
class ConstantSlices:
    """Slices along one axis that are one constant throughout, whatever the input.

    `mask[i]` says whether slice i does; `value[i]`, in the tensor's dtype, is then its value.
    """

    mask: Mask
    value: Array

    def only(self, value: Array | float = 0.0) -> ConstantSlices:
        """Those that are this number."""
        return ConstantSlices(self.mask & (self.value == value), self.value)

    def plus(self, known: ConstantSlices | None, factor: float = 1) -> ConstantSlices:
        """With what is known of an addend, times a factor, added to each; None where nothing is."""
        if known is None:
            return ConstantSlices(np.zeros_like(self.mask), self.value)
        return ConstantSlices(self.mask & known.mask, self.value + factor * known.value)


@dataclass(eq=False)
class Demand:
    """What a consumer must find along one axis of an operand.

    `need` marks the slices. An exact demand is for these and no others, in order; a `flexible` one for any set that
    contains them (the consumer's weights are sliced to it). `optional`: an empty set is fine, the operand is left out.
    `reason` is for people, one of `kept_reasons` or a rule's own words; `echo` names the output axis whose stored set
    is simply passed on, so that the explanation is the one given there; slice j there is slice `order[j]` here (None:
    j). `flops` is the cost of reading one slice that is not needed. `picked`: by the operator, whose place an
    adapter takes that leaves slices out; `or_all`: which picks these of all slices as well.
    """

    need: Mask
    flexible: bool = False
    optional: bool = False
    reason: Reason | str = ""
    echo: tuple[int, int] | None = None
    order: Index | None = None
    flops: float = 0.0
    picked: bool = False
    or_all: bool = False

    @functools.cached_property
    def bits(self) -> int:
        """Those of `need`."""
        return bits(self.need)


Constants = Iterator[tuple[int, int, ConstantSlices]]  # output, axis, what is known
Maps = Iterator[tuple[int, int, "ConstantMap"]]  # output, axis, what is known
Masks = Iterator[tuple[int, int, Mask]]  # output, axis, slices of which something is known
Dependences = Iterator[tuple[int, int, LinearDependence]]  # output, axis, linearly dependent slices
Place = tuple[gs.Tensor, int]  # tensor, axis
Couples = Iterator[tuple[Place, Place, Index | None]]  # slice j of the second goes with slice index[j] of the first
Partitions = Iterator[tuple[Place, list[Index]]]  # divisions of an axis: the class of each slice
Reads = Iterator[tuple[int, int, Mask]]  # input, axis, slices read; an axis that is not mentioned is read whole
Sets = dict[tuple[int, int], Mask]  # (output, axis) -> slices; an axis that is not mentioned is whole
Demands = dict[tuple[int, int], Demand]  # (input, axis) -> demand; an axis that is not mentioned is required whole


@dataclass(eq=False)
class Link:
    """Which slices of an input axis go to which slices of an output axis.

    Slice j of the output comes from slice `source[j]` of the input (-1: from elsewhere); None: the same index. When one
    input axis becomes several output axes (`split`) it is the other way round: slice i of the input goes to slice
    `source[i]` of the output.
    """

    input: int
    input_axis: int
    output: int
    output_axis: int
    source: Index | None = None
    split: bool = False
    _pairs: tuple[Index, Index] | None = field(default=None, init=False, repr=False)

    def pairs(self, size: int) -> tuple[Index, Index]:
        """The input slices, and the output slice that each goes to: int64 [pairs] both; `size` is that of the input."""
        if self._pairs is None:
            if self.source is None or self.split:
                inputs = np.arange(size)
                self._pairs = inputs, inputs if self.source is None else self.source
            else:
                outputs = np.flatnonzero(self.source >= 0)
                self._pairs = self.source[outputs], outputs
        return self._pairs

    def forward(self, inputs: Mask, size: int) -> Mask:
        """The output slices, bool [size], that come from any of these input slices."""
        if self.source is None:
            return inputs
        before, after = self.pairs(inputs.size)
        reached = np.zeros(size, bool)
        reached[after[inputs[before]]] = True
        return reached

    def backward(self, outputs: Mask, size: int) -> Mask:
        """The input slices, bool [size], that any of these output slices comes from."""
        if self.source is None:
            return outputs
        before, after = self.pairs(size)
        needed = np.zeros(size, bool)
        needed[before[outputs[after]]] = True
        return needed


def merge(a: ConstantSlices, b: ConstantSlices) -> ConstantSlices:
    """What either says."""
    return ConstantSlices(a.mask | b.mask, np.where(a.mask, a.value, b.value))


def agreed(known: list[ConstantSlices]) -> ConstantSlices:
    """Slices that all say to be the same constant."""
    if not known or len({k.mask.size for k in known}) > 1:
        return ConstantSlices(np.zeros(0, bool), np.zeros(0))
    first = known[0]
    same = [k.mask & (k.value == first.value) for k in known]
    return ConstantSlices(np.asarray(np.logical_and.reduce(same)), first.value)
