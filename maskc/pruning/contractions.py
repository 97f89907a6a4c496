"""Layers as least squares: the rows that a layer's weights are multiplied with, and the weights as a matrix.

Each operator with constant weights that sums over the channels of an input is, for each of its groups, `rows @ matrix`
with rows `[n, channels * taps]`, channel after channel, and a matrix `[channels * taps, outputs]`. The taps of a
convolution are the same operator again, with one kernel for each position and each channel by itself, so padding,
strides and dilations are what the runtime makes of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from maskc.runtime.onnxruntime_session import OnnxRuntimeSession

Floats = NDArray[Any]  # float32 or float64

_OPSET = 17  # in which the patches of a convolution are cut


@dataclass(frozen=True, eq=False)
class Contraction(ABC):
    """A node and the weights, among its constants, that it sums an input's channels with.

    source: the input's name. axis: of its channels, counted from the end where it is negative. weights: their name.
    bias: the name of the constant that is added, one for each output; empty where none is.
    """

    node: NodeProto
    source: str
    axis: int
    weights: str
    shape: tuple[int, ...]
    bias: str = ""

    groups = 1
    taps = 1

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self.groups * self.width

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels of the input in each group."""

    @abstractmethod
    def matrix(self, weights: NDArray[Any]) -> Floats:
        """Weights as they are stored as float64 [groups, width * taps, outputs]."""

    @abstractmethod
    def stored(self, matrix: Floats) -> Floats:
        """The inverse of `matrix`."""

    def shifted(self, bias: NDArray[Any], shift: Floats) -> Floats:
        """The stored bias, with this much more for each output, [outputs of all groups]."""
        return bias + shift

    def rows(self, values: NDArray[Any], most: int, rng: np.random.Generator) -> Floats:
        """Of the input's values, at positions that are drawn: float32 [groups, up to `most`, width * taps]."""
        moved = np.moveaxis(values, self.axis, -1).reshape(-1, self.channels)
        return moved[_some(len(moved), most, rng)].astype(np.float32, copy=False)[None]


@dataclass(frozen=True, eq=False)
class MatrixProduct(Contraction):
    """A MatMul or Gemm with a constant matrix; `transposed`: its rows are the outputs."""

    transposed: bool = False

    @property
    def width(self) -> int:
        return self.shape[1] if self.transposed else self.shape[0]

    def matrix(self, weights: NDArray[Any]) -> Floats:
        return np.asarray(weights.T if self.transposed else weights, np.float64)[None]

    def stored(self, matrix: Floats) -> Floats:
        only: Floats = matrix[0]
        return only.T if self.transposed else only


@dataclass(frozen=True, eq=False)
class Convolution(Contraction):
    """A Conv, `[outputs, width, *kernel]`, or a ConvTranspose, `[channels, outputs of a group, *kernel]`."""

    groups: int = 1

    @property
    def _transposed(self) -> bool:
        return bool(self.node.op_type == "ConvTranspose")

    @property
    def width(self) -> int:
        return self.shape[0] // self.groups if self._transposed else self.shape[1]

    @property
    def taps(self) -> int:  # type: ignore[override]
        return math.prod(self.shape[2:])

    def matrix(self, weights: NDArray[Any]) -> Floats:
        flat = np.asarray(weights, np.float64).reshape(*self.shape[:2], self.taps)
        if self._transposed:
            split = flat.reshape(self.groups, self.width, -1, self.taps).transpose(0, 1, 3, 2)
        else:
            split = flat.reshape(self.groups, -1, self.width, self.taps).transpose(0, 2, 3, 1)
        return split.reshape(self.groups, self.width * self.taps, -1)

    def stored(self, matrix: Floats) -> Floats:
        split = matrix.reshape(self.groups, self.width, self.taps, -1)
        order = (0, 1, 3, 2) if self._transposed else (0, 3, 1, 2)
        return split.transpose(order).reshape(self.shape)

    def rows(self, values: NDArray[Any], most: int, rng: np.random.Generator) -> Floats:
        each = max(1, math.ceil(most / len(values)))
        parts = [self._of_one(values[i : i + 1], each, rng) for i in range(len(values))]
        return np.concatenate(parts, axis=1)

    def _of_one(self, value: NDArray[Any], most: int, rng: np.random.Generator) -> Floats:
        if self.taps == 1 and not self._reshapes:
            found = np.moveaxis(value[0], 0, -1).reshape(-1, self.channels)
            found = found[_some(len(found), most, rng)]
        else:
            patches = self._patches.run({"x": value.astype(np.float32, copy=False)})["y"][0]
            patches = patches.reshape(self.channels * self.taps, -1)
            found = patches[:, _some(patches.shape[1], most, rng)].T
        split = found.astype(np.float32, copy=False).reshape(len(found), self.groups, -1)
        rows: Floats = split.transpose(1, 0, 2)
        return rows

    @cached_property
    def _reshapes(self) -> bool:
        found = {a.name: helper.get_attribute_value(a) for a in self.node.attribute}
        return self._transposed or any(s != 1 for s in found.get("strides", ())) or any(found.get("pads", ()))

    @cached_property
    def _patches(self) -> OnnxRuntimeSession:
        kernel = np.eye(self.taps, dtype=np.float32).reshape(self.taps, *self.shape[2:])
        if self._transposed:
            kernels = np.broadcast_to(kernel, (self.channels, *kernel.shape))
        else:
            kernels = np.tile(kernel[:, None], (self.channels, *[1] * (kernel.ndim)))
        node = NodeProto()
        node.CopyFrom(self.node)
        del node.attribute[:]
        node.attribute.extend(a for a in self.node.attribute if a.name != "group")
        node.attribute.append(helper.make_attribute("group", self.channels))
        node.input[:], node.output[:] = ["x", "w"], ["y"]
        node.domain = ""
        rank = len(self.shape)
        graph = helper.make_graph(
            [node],
            "patches",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, self.channels, *[None] * (rank - 2)])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * rank)],
            [onnx.numpy_helper.from_array(np.ascontiguousarray(kernels), "w")],
        )
        return OnnxRuntimeSession(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        )


@dataclass(frozen=True, eq=False)
class Recurrence(Contraction):
    """The input weights of an LSTM, GRU or RNN of one direction, `[1, gates, channels]`."""

    @property
    def width(self) -> int:
        return self.shape[2]

    def matrix(self, weights: NDArray[Any]) -> Floats:
        return np.asarray(weights[0].T, np.float64)[None]

    def stored(self, matrix: Floats) -> Floats:
        return matrix.transpose(0, 2, 1)

    def shifted(self, bias: NDArray[Any], shift: Floats) -> Floats:
        rest = bias.shape[1] - len(shift)  # is for the weights of the state
        return np.asarray(bias + np.pad(shift, (0, rest))[None])


def contractions(
    model: onnx.ModelProto, constants: Mapping[str, NDArray[Any]], biases: Mapping[str, str]
) -> Iterator[Contraction]:
    """Those of the model's main graph, in its order.

    constants: those that it stores, by name. biases: by the name of a layer's output, as `biased` gives them.
    """
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        found = _of(node, constants, biases.get(node.output[0], ""))
        if found is not None and uses[found.weights] == 1 and constants[found.weights].dtype.kind == "f":
            yield found


def _of(node: NodeProto, constants: Mapping[str, NDArray[Any]], bias: str) -> Contraction | None:
    names = [*node.input, "", ""]
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weights = constants.get(names[1])
    shape = () if weights is None else weights.shape
    if node.op_type == "MatMul":
        if len(shape) == 2 and names[0] not in constants:
            return MatrixProduct(node, names[0], -1, names[1], shape, bias)
        first = constants.get(names[0])
        if first is not None and first.ndim == 2 and weights is None:
            return MatrixProduct(node, names[1], -2, names[0], first.shape, transposed=True)
    if weights is None or names[0] in constants:
        return None
    if node.op_type == "Gemm" and not given.get("transA") and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0:
        return MatrixProduct(node, names[0], -1, names[1], shape, bias, bool(given.get("transB")))
    if node.op_type in ("Conv", "ConvTranspose"):
        return Convolution(node, names[0], 1, names[1], shape, bias, int(given.get("group", 1)))
    if node.op_type in ("LSTM", "GRU", "RNN") and shape[0] == 1:
        return Recurrence(node, names[0], 2, names[1], shape, bias)
    return None


def _some(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64] | slice:
    """Positions, `most` of `count` at most, in their order."""
    return slice(None) if count <= most else np.sort(rng.choice(count, most, replace=False))
