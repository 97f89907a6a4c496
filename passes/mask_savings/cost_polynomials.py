"""FLOPs of nodes as polynomials in the numbers of slices that their tensors store.

They are arrays of coefficients, fitted to what the operators' rules count at a few sizes, and numpy evaluates them for
all mask entries at once. Formulas of sizes (`abstract_values.polynomial`) are exact, and of any degree.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph import construct
from passes.graph.tensors import Array, is_constant, shape_of, stored
from passes.ops import rules

#: an axis of a node's tensors: "inputs" or "outputs", which of them, and the axis
Place = tuple[str, int, int]


@dataclass(frozen=True)
class Varying:
    """How the size of an axis follows a dimension: `times` its size, and `more`."""

    dimension: int
    times: int
    more: int


#: the highest power of one number: a product of a tensor with itself takes the square
_DEGREE = 2
_POINTS = np.arange(1, _DEGREE + 2)
_FROM_VALUES = np.linalg.inv(np.vander(_POINTS, increasing=True).astype(float))


def polynomial(node: gs.Node, axes: Mapping[Place, Varying], dimensions: Sequence[int]) -> Array:
    """The FLOPs of the node by its operator's rule: float64 `[3, 3, ...]`, coefficients by the power of each dimension.

    axes: those that vary, with one of the dimensions.
    """
    values = np.zeros([len(_POINTS)] * len(dimensions))
    for point in itertools.product(range(len(_POINTS)), repeat=len(dimensions)):
        sizes = dict(zip(dimensions, _POINTS[list(point)].tolist(), strict=True))
        values[point] = _flops(node, {place: v.times * sizes[v.dimension] + v.more for place, v in axes.items()})
    for position in range(len(dimensions)):
        values = np.moveaxis(np.tensordot(_FROM_VALUES, values, axes=(1, position)), 0, position)
    return np.asarray(np.round(values, 6))  # what is not a whole number here is rounding


def evaluated(coefficients: Array, sizes: Array) -> Array:
    """Values of polynomials, float64 [n]: coefficients [n, 3, 3, ...] at sizes [n, dimensions]."""
    for size in sizes.T:
        powers = np.stack([size**power for power in range(_DEGREE + 1)], axis=1)
        coefficients = np.einsum("np...,np->n...", coefficients, powers)
    return coefficients


def _flops(node: gs.Node, sizes: Mapping[Place, int]) -> int:
    inputs = [_resized(tensor, "inputs", index, sizes) for index, tensor in enumerate(node.inputs)]
    outputs = [_resized(tensor, "outputs", index, sizes) for index, tensor in enumerate(node.outputs)]
    trial = construct.node(node.op, node.name, node.attrs, inputs, outputs, node.domain)
    return rules(node).cost(trial)[0]  # by its own form, whatever sizes such a node could have


def _resized(tensor: gs.Tensor, side: str, index: int, sizes: Mapping[Place, int]) -> gs.Tensor:
    """A tensor like this one, of other sizes."""
    if tensor.is_empty():
        return construct.omitted()
    if is_constant(tensor):
        shape = [sizes.get((side, index, axis), size) for axis, size in enumerate(tensor.shape)]
        changes = any(key[:2] == (side, index) for key in sizes)
        values = np.broadcast_to(np.zeros((), tensor.dtype), shape) if changes else stored(tensor)
        return construct.constant(tensor.name, values)
    dims = shape_of(tensor)
    resized = None if dims is None else [sizes.get((side, index, axis), size) for axis, size in enumerate(dims)]
    return construct.variable(tensor.name, tensor.dtype, resized)
