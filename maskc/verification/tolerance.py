"""Tolerances of outputs: rounding, by the type of the output and its depth in the graph.

An output passes when, on every sample, `|error| <= atol + rtol * scale`, with scale the largest absolute value that
the reference's output has on that sample. `rtol`, unless it is given, is that of the coarsest floating-point type in
the graph: 8 roundings times the square root of the depth of the output, and at most 1e-12 for float64, 1e-5 for
float32, 1e-3 for half precision. Integers, booleans and text must be equal.

Two exact compilations of one function still round differently, and a network that is saturated, quantised, or on the
edge between two classes magnifies rounding. So an error above this tolerance is accepted where no region of the models
differs (`rounding`).

TensorFlow's kernels sum in other orders than ONNX Runtime's, so the tolerance against TensorFlow's own outputs is
`TENSORFLOW_FACTOR` times as wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from maskc.frontend.graph_queries import float_types

# What is allowed at most, by type; everything else that is a float has half precision or less.
RTOL: dict[int, float] = {TensorProto.DOUBLE: 1e-12, TensorProto.FLOAT: 1e-5}
RTOL_HALF = 1e-3

# Roundings that an output may be away for each node on the longest way to it. They add up like the steps of a
# drunkard's walk, so with the square root of the depth. Measured on correct compilations of random networks.
ROUNDINGS = 8.0

# An error of at most so many times what rounding of weights does to the reference is explained by rounding.
NOISE_FACTOR = 4.0

TENSORFLOW_FACTOR = 10.0


@dataclass(frozen=True)
class Tolerance:
    """The errors allowed of the outputs of a model: those given, or else by depth, the output's type and the graph's.

    `coarsest` are the tolerances of the coarsest type in the graph at the depth of each output.
    """

    depths: Mapping[str, int]
    coarsest: Mapping[str, float]
    rtol: float | None
    atol: float

    @classmethod
    def of(
        cls,
        reference: ModelProto,
        outputs: Iterable[str],
        rtol: float | None,
        atol: float,
        finest: int = TensorProto.DOUBLE,
    ) -> Tolerance:
        """The tolerance of these outputs of the reference; `rtol` None is by type and depth.

        `finest` is the finest type that the runtime computes with (a `TensorProto.DataType`).
        """
        depth = depths(reference)
        found = {name: coarsest(reference, depth.get(name, 1), finest) for name in outputs}
        return cls(depth, found, rtol, atol)

    def relative(self, output: str, dtype: np.dtype[Any], factor: float) -> float:
        """The error allowed of an output relative to its scale; `factor` widens what was not given."""
        if self.rtol is not None:
            return self.rtol
        return max(tolerance(dtype, self.depths.get(output, 1)), self.coarsest.get(output, 0.0)) * factor


def tolerance(dtype: np.dtype[Any], depth: int) -> float:
    """The error allowed of an output relative to its scale: 8 roundings times the square root of the depth.

    At most 1e-12 for doubles, 1e-5 for singles and 1e-3 for what has half precision or less.
    """
    bits = 8 * dtype.itemsize // (2 if dtype.kind == "c" else 1)
    most = {64: RTOL[TensorProto.DOUBLE], 32: RTOL[TensorProto.FLOAT]}.get(bits, RTOL_HALF)
    unit = {64: 2.0**-52, 32: 2.0**-23}.get(bits, 2.0**-10)
    return min(most, ROUNDINGS * unit * math.sqrt(max(depth, 1)))


def coarsest(model: ModelProto, depth: int, finest: int = TensorProto.DOUBLE) -> float:
    """The tolerance of the coarsest type in the graph: a double computed from singles is no better than they are.

    Where `finest` is not double, doubles are computed in that type.
    """
    types: dict[int, type] = {TensorProto.DOUBLE: np.float64, TensorProto.FLOAT: np.float32}
    present = (finest if type_ == TensorProto.DOUBLE else type_ for type_ in float_types(model))
    found = (np.dtype(types.get(type_, np.float16)) for type_ in present)
    return max((tolerance(dtype, depth) for dtype in found), default=0.0)


def depths(model: ModelProto) -> dict[str, int]:
    """For each tensor of the main graph, the number of nodes on the longest way to it."""
    found: dict[str, int] = {}
    for node in model.graph.node:
        depth = 1 + max((found.get(name, 0) for name in node.input), default=0)
        found.update((name, depth) for name in node.output if name)
    return found
