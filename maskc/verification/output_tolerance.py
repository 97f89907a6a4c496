"""Tolerances of outputs: rounding, by the type of the output and its depth in the graph.

An output passes when, on every sample, `|error| <= atol + rtol * scale`, with scale the largest absolute value that
the reference's output has on that sample. `rtol`, unless it is given, is that of the coarsest floating-point type in
the graph: 8 roundings times the square root of the depth of the output, and at most 1e-12 for float64, 1e-5 for
float32, 1e-3 for half precision. Outputs of a Sigmoid may be 2^-22 off in any case, which is what the terms that it is
computed of round to near 0. Integers, booleans and text must be equal.

Two exact compilations of one function still round differently, and a network that is saturated, quantised, or on the
edge between two classes magnifies rounding. So an error above this tolerance is accepted where no region of the models
differs (`output_rounding`).

TensorFlow's kernels sum in other orders than ONNX Runtime's, so the tolerance against TensorFlow's own outputs is
`TENSORFLOW_FACTOR` times as wide.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from maskc.frontend.graph_queries import float_types
from maskc.verification.recheck import EXACT, LOGISTIC

# Roundings that an output may be away for each node on the longest way to it. They add up like the steps of a
# drunkard's walk, so with the square root of the depth. Measured on correct compilations of random networks.
ROUNDINGS = 8.0

# An error of at most so many times what rounding of weights does to the reference is explained by rounding.
NOISE_FACTOR = 4.0

TENSORFLOW_FACTOR = 10.0

_TYPES: dict[int, type] = {TensorProto.DOUBLE: np.float64, TensorProto.FLOAT: np.float32}


@dataclass(frozen=True)
class Tolerance:
    """The errors allowed of the outputs of a model: those given, or else by depth, the output's type and the graph's.

    `depths` are of tensors, `sigmoids` those that a Sigmoid makes, `types` those in which the graph computes.
    """

    depths: Mapping[str, int]
    sigmoids: Collection[str]
    types: tuple[np.dtype[Any], ...]
    rtol: float | None
    atol: float

    @classmethod
    def of(cls, reference: ModelProto, rtol: float | None, atol: float, finest: int = TensorProto.DOUBLE) -> Tolerance:
        """The tolerance of the outputs of the reference; `rtol` None is by type and depth.

        `finest` is the finest type that the runtime computes with (a `TensorProto.DataType`).
        """
        present = (finest if type_ == TensorProto.DOUBLE else type_ for type_ in float_types(reference))
        types = tuple(np.dtype(_TYPES.get(type_, np.float16)) for type_ in present)
        depths, sigmoids = dict[str, int](), set[str]()
        for node in reference.graph.node:
            depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
            depths.update((name, depth) for name in node.output if name)
            if node.op_type == "Sigmoid" or (node.op_type in EXACT and not sigmoids.isdisjoint(node.input)):
                sigmoids.update(node.output)
        return cls(depths, sigmoids, types, rtol, atol)

    def relative(self, output: str, dtype: np.dtype[Any], factor: float) -> float:
        """The error allowed of an output relative to its scale; `factor` widens what was not given."""
        if self.rtol is not None:
            return self.rtol
        # a double that is computed from singles is no better than they are
        return max(tolerance(type_, self.depths.get(output, 1)) for type_ in (dtype, *self.types)) * factor

    def near_zero(self, output: str) -> float:
        """The error allowed of an output however small it is: of 1/2 and a quotient, as Sigmoids are computed."""
        return LOGISTIC if self.rtol is None and output in self.sigmoids else 0.0


def tolerance(dtype: np.dtype[Any], depth: int) -> float:
    """The error allowed of an output relative to its scale: 8 roundings times the square root of the depth.

    At most 1e-12 for doubles, 1e-5 for singles and 1e-3 for what has half precision or less.
    """
    bits = 8 * dtype.itemsize // (2 if dtype.kind == "c" else 1)
    unit, most = {64: (2.0**-52, 1e-12), 32: (2.0**-23, 1e-5)}.get(bits, (2.0**-10, 1e-3))
    return min(most, ROUNDINGS * unit * math.sqrt(max(depth, 1)))
