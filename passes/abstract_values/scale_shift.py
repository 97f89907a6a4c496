"""Scales and shifts of single channels, and clips of whole tensors, as values."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import Array, Dim, is_constant, shape_of
from passes.weights import statistics
from passes.weights.streaming import lazy

_finfo = functools.cache(ml_dtypes.finfo)
#: a scale that changes nothing, and such a shift
ONE, ZERO = np.ones(()), np.zeros(())
ONE.setflags(write=False)
ZERO.setflags(write=False)

_TINY, _MOST = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Affine:
    """x -> scale · x + shift: float64 [n] along the axis that is `axis` from the end (1: the last), or [] for all.

    `axis` is None when both are the same for all elements.
    """

    data: gs.Tensor
    scale: Array
    shift: Array
    axis: int | None

    def then(self, second: Affine) -> Affine | None:
        """Both as one, `second` of what this one gives; None where they run along two axes."""
        if None not in (self.axis, second.axis) and self.axis != second.axis:
            return None
        shift = second.scale * self.shift + second.shift
        return Affine(self.data, second.scale * self.scale, shift, second.axis or self.axis)


@dataclass(frozen=True)
class ClampedAffine:
    """x -> min(max(scale · x + shift, low), high), with the same numbers for all elements of the tensor x."""

    data: gs.Tensor
    scale: float = 1.0
    shift: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    def then(self, second: ClampedAffine) -> ClampedAffine | None:
        """Both as one, `second` of what this one gives; None where single precision cannot hold that or this rounds."""
        if not (self.fits and second.fits) or rounds(self.shift, np.float32):
            return None
        ends = sorted(second.scale * end + second.shift for end in (self.low, self.high))
        low, high = (min(max(end, second.low), second.high) for end in ends)
        shift = second.scale * self.shift + second.shift
        joint = ClampedAffine(self.data, second.scale * self.scale, shift, low, high)
        return joint if joint.fits else None

    @property
    def fits(self) -> bool:
        """Whether its numbers are neither too large for single precision nor too small, and it is not constant."""
        inside = _TINY <= abs(self.scale) <= _MOST and abs(self.shift) <= _MOST
        return inside and self.low <= self.high and self.low <= _MOST and self.high >= -_MOST

    def in_single_precision(self) -> ClampedAffine:
        """With its numbers rounded: six sixths are one again."""
        with np.errstate(over="ignore"):  # a bound that no number reaches
            numbers = [float(np.float32(v)) for v in (self.scale, self.shift, self.low, self.high)]
        return ClampedAffine(self.data, *numbers)

    def factored(self) -> tuple[ClampedAffine, float]:
        """A map that takes fewer operators, and what its result is to be multiplied by."""
        if self.low == 0 and 0 < self.high < math.inf:
            return ClampedAffine(self.data, self.scale / self.high, self.shift / self.high, 0.0, 1.0), self.high
        if self.scale < 0:
            return self, 1.0
        return ClampedAffine(self.data, 1.0, *(v / self.scale for v in (self.shift, self.low, self.high))), self.scale

    def is_hard_sigmoid(self) -> bool:
        """Whether it ends at 0 and at 1."""
        return (self.low, self.high) == (0.0, 1.0)

    def operators(self) -> int:
        """How many operators it takes."""
        if self.is_hard_sigmoid():
            return 1
        return (self.scale != 1) + (self.shift != 0) + ((self.low, self.high) != (-math.inf, math.inf))


_Map = TypeVar("_Map", Affine, ClampedAffine)


@dataclass(frozen=True)
class Chain(Generic[_Map]):
    """Nodes, the last one first, each of which alone reads what the one before it writes; `whole`: all as one."""

    whole: _Map
    nodes: list[gs.Node]


def longest_chain(last: gs.Node, map_of: Callable[[gs.Node], _Map | None], editor: GraphEditor) -> Chain[_Map] | None:
    """The longest chain of scales and shifts that ends with the node; None if the node is none."""
    whole, nodes = map_of(last), [last]
    if whole is None:
        return None
    while (before := editor.sole_producer(whole.data)) is not None:
        first = map_of(before)
        joint = None if first is None else first.then(whole)
        if joint is None:
            break
        whole = joint
        nodes.append(before)
    return Chain(whole, nodes)


def rounds(shift: Array | float, dtype: object) -> bool:
    """Whether to add this and take it away again rounds to halves or coarser, as is done on purpose."""
    largest = abs(shift) if isinstance(shift, float) else np.abs(shift).max(initial=0.0)
    return bool(largest * float(limits(dtype).eps) >= 0.5)


def limits(dtype: object) -> np.finfo[Any]:
    """The extent and the steps of a floating-point type; those of single precision where it is none or not known."""
    known = np.float32 if dtype is None or isinstance(dtype, int) or np.dtype(dtype).kind in "biu" else dtype  # type: ignore[call-overload]
    return _finfo(known)


def with_constant(node: gs.Node) -> tuple[gs.Tensor, gs.Constant] | None:
    """The computed and the constant operand of a node that has one of each, in this order; None for others."""
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if is_constant(first):
        return None if is_constant(second) else (second, first)
    return (first, second) if is_constant(second) else None


def along_one_axis(constant: gs.Constant, output: gs.Tensor) -> tuple[Array, int | None] | None:
    """The constant as float64 [n] with its axis from the end, or [] and None; None if it varies along several axes."""
    shape = list(constant.shape)
    if isinstance(constant.dtype, int) or np.dtype(constant.dtype).kind not in "fV":
        return None
    if len(shape) > len(shape_of(output) or shape):
        return None
    wide = [a for a, d in enumerate(shape) if d != 1]
    if len(wide) > 1:
        return None
    values = np.asarray(constant.values, np.float64)
    if not wide:
        return values.reshape(()), None
    return values.reshape(-1), len(shape) - wide[0]


def is_filled_with(constant: gs.Tensor, value: float) -> bool:
    """Whether all elements of an initializer are this number."""
    if not is_constant(constant) or isinstance(constant.dtype, int):
        return False
    values = lazy(constant) or np.asarray(constant.values)
    return values.dtype.kind in "fiuV" and statistics.is_filled_with(values, value)


def keeps_shape(data: tuple[Dim, ...] | None, other: Sequence[Dim]) -> bool:
    """Whether broadcasting against the other shape, a constant's for instance, leaves that of the data as it is."""
    if data is None or len(other) > len(data):
        return False
    return all(size in (1, dim) for size, dim in zip(other, data[len(data) - len(other) :], strict=True))
