"""A decomposed normalisation, with constants in its statistics that are not there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import ConstantSlices
from passes.graph.tensors import Array, Mask, numpy_dtype
from passes.rewriting.lower_ops import Rewriter


@dataclass(frozen=True)
class Absent:
    """What constants c that are not there add to the statistics of each group of n channels: float64 [groups] each.

    `share` of the n are there in every group, and `removed` are not; `total` is sum c / n, `middle` their mean and
    `spread` sum (c - middle)² / n.
    """

    share: float
    removed: Array
    total: Array
    middle: Array
    spread: Array

    @classmethod
    def among(cls, value: Array, removed: Mask) -> Absent:
        """Of the channels [groups, n] with these values those that are `removed`, equally many in every group."""
        n = removed.shape[1]
        known, count = np.where(removed, value, 0).astype(np.float64), removed.sum(axis=1)
        middle = known.sum(axis=1) / np.maximum(count, 1)
        spread = np.where(removed, (known - middle[:, None]) ** 2, 0).sum(axis=1) / n
        return cls(float(n - count[0]) / n, count / n, known.sum(axis=1) / n, middle, spread)


@dataclass(frozen=True)
class NarrowedNormalization:
    """Writes a normalisation ahead of the node, in single precision at least, and lets the node end it.

    Of the channels along `axis` those `required` are there and those `out` are written; the others are `known`.
    """

    node: gs.Node
    rewriter: Rewriter
    axis: int
    known: ConstantSlices
    required: Mask
    out: Mask

    @property
    def removed(self) -> Mask:
        """The constants that are not there."""
        return self.known.mask & ~self.required

    @property
    def epsilon(self) -> float:
        return float(self.node.attrs.get("epsilon", np.float32(1e-5)))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of what is normalised; statistics of half precision are taken in single precision."""
        return numpy_dtype(self.rewriter.before.inputs[0])

    @functools.cached_property
    def data(self) -> gs.Tensor:
        """What is normalised, in single precision at least."""
        data = self.node.inputs[0]
        return self.rewriter.cast(data, np.dtype(np.float32)) if self.dtype.itemsize < 4 else data

    def emit(self, op: str, *inputs: gs.Tensor, **attrs: object) -> gs.Variable:
        return self.rewriter.emit(op, list(inputs), self.data, **attrs)

    def reduce(self, op: str, tensor: gs.Tensor, axis: int) -> gs.Tensor:
        return self.rewriter.emit(op, [tensor], tensor, axes=[axis], keepdims=1)

    def _number(self, value: Array | float) -> gs.Constant:
        """One number, or a column of one for each group."""
        values = np.asarray(value, numpy_dtype(self.data))
        return self.rewriter.constant("statistic", values.reshape(()) if values.size == 1 else values.reshape(-1, 1))

    def times(self, tensor: gs.Tensor, value: Array | float) -> gs.Tensor:
        return self.emit("Mul", tensor, self._number(value))

    def plus(self, tensor: gs.Tensor, value: Array | float) -> gs.Tensor:
        return self.emit("Add", tensor, self._number(value))

    def mean(self, tensor: gs.Tensor, axis: int, share: float) -> gs.Tensor:
        """Its sum over the axis, divided by more than are there."""
        mean = self.reduce("ReduceMean", tensor, axis)
        return self.times(mean, share) if share < 1 else mean

    def normalised(
        self, data: gs.Tensor, axis: int, absent: Absent, squares: Callable[[gs.Tensor], gs.Tensor]
    ) -> gs.Tensor:
        """(data - mean) / sqrt(variance + epsilon) over the axis.

        mean = (sum of what is there + sum c) / n; variance = (sum of its squared distances + D (mean - mean c)² + sum
        (c - mean c)²) / n, with D constants c of n channels. `squares`: squared distances to their sum over n.
        """
        mean = self.mean(data, axis, absent.share)
        mean = self.plus(mean, absent.total) if absent.total.any() else mean
        centred = self.emit("Sub", data, mean)
        apart = self.plus(mean, -absent.middle) if absent.middle.any() else mean
        between = self.times(self.emit("Mul", apart, apart), absent.removed)
        variance = self.emit("Add", squares(centred), between)
        return self.over_root(centred, self.plus(variance, absent.spread + self.epsilon))

    def over_root(self, tensor: gs.Tensor, variance: gs.Tensor) -> gs.Tensor:
        return self.emit("Mul", tensor, self.emit("Reciprocal", self.emit("Sqrt", variance)))

    def pick(self, inputs: list[gs.Tensor]) -> None:
        """Let the operator itself normalise what is required, with these inputs, and the node write what is stored."""
        if (self.required == self.out).all():
            self.node.inputs = inputs
            return
        data = self.rewriter.emit(self.node.op, inputs, self.node.inputs[0], **self.node.attrs)
        self.rewriter.become(self.node, "Gather", [data, self._positions()], axis=self.axis)

    def pick_of_padded(self) -> None:
        """The same with zeros behind what is required for channels that are not there, of which some may be stored."""
        node, rewriter, like = self.node, self.rewriter, self.node.inputs[0]
        order = np.argsort(np.where(self.required, 0, 2 - self.out), kind="stable")
        shape = rewriter.shape(rewriter.before.inputs[0])
        ends = [0] * (2 * len(shape))
        ends[len(shape) + self.axis] = int(self.removed.sum())
        given = [(t, rewriter.facts.value(t)[order]) for t in rewriter.before.inputs[1:] if t.name]
        vectors = [rewriter.constant(tensor.name, values) for tensor, values in given]
        data = rewriter.emit(node.op, [rewriter.emit("Pad", [like], like, pads=ends), *vectors], like, **node.attrs)
        positions = np.argsort(order)[self.out]
        if positions.max() < positions.size:  # what is stored comes first
            bounds = {"starts": [0], "ends": [positions.size], "axes": [self.axis]}
            operands, attrs = rewriter.editor.form("Slice", [data], bounds)
            if (positions == np.arange(positions.size)).all():
                rewriter.become(node, "Slice", operands, **attrs)
                return
            data = rewriter.emit("Slice", operands, like, **attrs)
            data.shape = [positions.size if a == self.axis else d for a, d in enumerate(shape)]  # for it to be absorbed
        rewriter.become(node, "Gather", [data, rewriter.constant("channels", positions)], axis=self.axis)

    def _positions(self) -> gs.Constant:
        """Where the slices that are stored lie among those that are required."""
        return self.rewriter.constant("channels", (np.cumsum(self.required) - 1)[self.out])

    def finish(self, result: gs.Tensor, scale: Array, bias: Array) -> None:
        """Let the node scale and shift those of the slices `required` that are stored."""
        like = self.rewriter.before.inputs[0]
        shape = [int(self.out.sum()) if a == self.axis else d for a, d in enumerate(self.rewriter.shape(like))]
        if self.dtype.itemsize < 4:
            result = self.rewriter.cast(result, self.dtype)
        if (self.required != self.out).any():
            result = self.rewriter.emit("Gather", [result, self._positions()], like, axis=self.axis)
        along = [-1, *[1] * (len(shape) - 1 - self.axis)]
        factors, addends = (
            self.rewriter.constant(hint, values[self.out].astype(self.dtype).reshape(along))
            for hint, values in (("scale", scale), ("bias", bias))
        )
        scaled = self.rewriter.emit("Mul", [result, factors], like)
        for tensor in (result, scaled):
            assert isinstance(tensor, gs.Variable)
            tensor.shape = list(shape)  # ones and zeros are required to do nothing
        self.rewriter.become(self.node, "Add", [scaled, addends])
