"""Layers as least squares: the rows that a layer's weights are multiplied with, and the weights as a matrix.

Each operator with constant weights that sums over the channels of an input is, for each of its groups, `rows @ matrix`
with rows `[n, channels * taps]`, channel after channel, and a matrix `[channels * taps, outputs]`. The taps of a
convolution are found by the same operator, with one kernel for each, on the numbers of the places, so padding, strides
and dilations are what the runtime makes of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from maskc.runtime.onnxruntime_session import OnnxRuntimeSession

Floats = NDArray[Any]  # float32 or float64

_OPSET = 17  # in which the taps of a convolution are found


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
    #: whether the rows of a pruned network are known before the weights are used
    refits = True

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
        place = np.arange(1, 1 + math.prod(value.shape[2:]), dtype=np.float32).reshape(1, 1, *value.shape[2:])
        places = self._taps.run({"x": place})["y"][0].reshape(self.taps, -1).astype(np.int64)
        places = places[:, _some(places.shape[1], most, rng)]
        padded = np.pad(value[0].reshape(self.channels, -1).astype(np.float32, copy=False), ((0, 0), (1, 0)))
        return padded[:, places].reshape(self.groups, -1, places.shape[1]).transpose(0, 2, 1)

    @cached_property
    def _taps(self) -> OnnxRuntimeSession:
        """What gives, for a map of one channel, each tap's value at each place of the output, 0 in the padding."""
        kernel = np.eye(self.taps, dtype=np.float32).reshape(self.taps, *self.shape[2:])
        given = {a.name: helper.get_attribute_value(a) for a in self.node.attribute if a.name != "group"}
        node = helper.make_node(self.node.op_type.removesuffix("Integer"), ["x", "w"], ["y"], **given)
        rank = len(self.shape)
        graph = helper.make_graph(
            [node],
            "taps",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, *[None] * (rank - 2)])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * rank)],
            [onnx.numpy_helper.from_array(kernel[None] if self._transposed else kernel[:, None], "w")],
        )
        return OnnxRuntimeSession(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        )


@dataclass(frozen=True, eq=False)
class Inputs(Contraction):
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


@dataclass(frozen=True, eq=False)
class Recurrence(Inputs):
    """The weights of the state of such a layer, which reads its own outputs of the step before."""

    refits = False


def contractions(
    model: onnx.ModelProto,
    constants: Mapping[str, NDArray[Any]],
    biases: Mapping[str, str],
    weights: Mapping[str, str],
) -> Iterator[Contraction]:
    """Those of the model's main graph, in its order.

    constants: those that it stores, by name. biases: by the name of a layer's output, as `biased` gives them. weights:
    names of constants by those of what takes their place, as `gated_units` gives them.
    """
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    quantised = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DynamicQuantizeLinear"}
    weights = {**weights, **quantised}
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        for found in _of(node, [weights.get(name, name) for name in node.input], constants, biases):
            if uses[found.weights] == 1 and constants[found.weights].dtype.kind == "f":
                yield found


def _of(
    node: NodeProto, inputs: Sequence[str], constants: Mapping[str, NDArray[Any]], biases: Mapping[str, str]
) -> Iterator[Contraction]:
    """The contractions of a node whose operands, by the names of what is stored, are these."""
    names = [*inputs, "", "", ""]
    bias = biases.get(node.output[0], "")
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    first, second = constants.get(names[0]), constants.get(names[1])
    product = node.op_type in ("MatMul", "MatMulInteger")
    if product and first is not None and second is None and first.ndim == 2:
        yield MatrixProduct(node, names[1], -2, names[0], first.shape, transposed=True)
    if first is not None or second is None:
        return
    shape = second.shape
    if product and len(shape) == 2:
        yield MatrixProduct(node, names[0], -1, names[1], shape, bias)
    elif node.op_type == "Gemm" and not given.get("transA") and given.get("alpha", 1) == given.get("beta", 1) == 1:
        yield MatrixProduct(node, names[0], -1, names[1], shape, bias, bool(given.get("transB")))
    elif node.op_type in ("Conv", "ConvTranspose", "ConvInteger"):
        yield Convolution(node, names[0], 1, names[1], shape, bias, int(given.get("group", 1)))
    elif node.op_type in ("LSTM", "GRU", "RNN") and shape[0] == 1:
        yield Inputs(node, names[0], 2, names[1], shape, bias)
        state = constants.get(names[2])
        if state is not None and node.output[0]:
            yield Recurrence(node, node.output[0], 3, names[2], state.shape)


def _some(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64] | slice:
    """Positions, `most` of `count` at most, in their order."""
    return slice(None) if count <= most else np.sort(rng.choice(count, most, replace=False))
