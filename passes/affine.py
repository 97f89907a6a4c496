"""Scales and shifts of single channels, as values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.tensors import Array, Dim, is_constant, shape_of


@dataclass(frozen=True)
class Affine:
    """x -> scale · x + shift: float64 [n] along the axis that is `axis` from the end (1: the last), or [] for all.

    `axis` is None when both are the same for all elements.
    """

    data: gs.Tensor
    scale: Array
    shift: Array
    axis: int | None


def with_constant(node: gs.Node) -> tuple[gs.Tensor, gs.Constant] | None:
    """The computed and the constant operand of a node that has one of each, in this order; None for others."""
    if len(node.inputs) != 2 or is_constant(node.inputs[0]) == is_constant(node.inputs[1]):
        return None
    first, second = node.inputs
    return (second, first) if is_constant(first) else (first, second)


def along_one_axis(constant: gs.Constant, output: gs.Tensor) -> tuple[Array, int | None] | None:
    """The constant as float64 [n] with its axis from the end, or [] and None; None if it varies along several axes."""
    shape = list(constant.shape)
    if isinstance(constant.dtype, int) or np.dtype(constant.dtype).kind not in "fV":
        return None
    if len(shape) > len(shape_of(output) or shape):
        return None
    values = np.asarray(constant.values, np.float64)
    wide = [a for a, d in enumerate(shape) if d != 1]
    if not wide:
        return values.reshape(()), None
    return (values.reshape(-1), len(shape) - wide[0]) if len(wide) == 1 else None


def is_filled_with(constant: gs.Tensor, value: float) -> bool:
    """Whether all elements of an initializer are this number."""
    if not is_constant(constant) or isinstance(constant.dtype, int):
        return False
    values = np.asarray(constant.values)
    return values.dtype.kind in "fiuV" and bool((values == value).all())


def keeps_shape(data: tuple[Dim, ...] | None, constant: list[int]) -> bool:
    """Whether broadcasting against the constant leaves the shape of the data as it is."""
    if data is None or len(constant) > len(data):
        return False
    return all(c in (1, d) for c, d in zip(reversed(constant), reversed(data), strict=False))
