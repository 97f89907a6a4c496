"""Operators with a vector of numbers, one for each channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.shape_rules import Shape
from passes.abstract_values.slices import ConstantSlices, Link
from passes.graph.tensors import Array, is_constant, shape_of, size_of
from passes.ops.base import register
from passes.ops.elementwise import Elementwise
from passes.ops.traits import ScaleShift
from passes.rewriting.channel_facts import Facts
from passes.rewriting.weight_scaling import AffineFolding, Fuser


class PerChannel(Elementwise):
    """The operands after the first are vectors along one axis of the first."""

    broadcasts = False

    def channel_axis(self, node: gs.Node) -> int:
        """The axis of the first operand along which the vectors run."""
        return 1

    def align(self, node: gs.Node, index: int, axis: int) -> int | None:
        if index == 0:
            return axis
        rank = len(shape_of(node.inputs[0]) or ())
        vector = len(shape_of(node.inputs[index]) or ()) == 1
        return 0 if vector and axis == self.channel_axis(node) % max(rank, 1) else None


@register("BatchNormalization")
class BatchNormalization(PerChannel, ScaleShift, AffineFolding):
    """Inference form: (x - mean) / sqrt(variance + epsilon) * scale + bias, along axis 1.

    Source: ONNX operator specification, BatchNormalization.
    """

    flops_per_element = 2

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        rank = len(shape_of(node.inputs[0]) or ())
        if rank > 1:
            yield 0, [None, size_of(node.inputs[1], 0), *[None] * (rank - 2)]

    def contradiction(self, node: gs.Node) -> str:
        channels = size_of(node.inputs[0], 1)
        for tensor in node.inputs[1:5]:
            shape = shape_of(tensor)
            if shape is not None and len(shape) != 1:
                return f"`{tensor.name}` has shape {list(shape)} and must be a vector, one number per channel"
            if channels is not None and size_of(tensor, 0) not in (None, channels):
                return f"its input has {channels} channels and `{tensor.name}` is for {size_of(tensor, 0)}"
        return ""

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        x, *vectors = [v for v in operands[:5] if v is not None]
        if len(vectors) < 4:
            return None
        if self._trains(node):
            return self._trained(node, x, vectors) if node.attrs.get("training_mode", 0) else None
        return [self._normalised(node, [x, *(v.reshape(-1, *[1] * (x.ndim - 2)) for v in vectors)])]

    def _trained(self, node: gs.Node, x: Array, vectors: Sequence[Array]) -> list[Array]:
        """By the statistics of `x` itself, as exporters write the standardisation of weights; and running ones."""
        others = tuple(axis for axis in range(x.ndim) if axis != 1)
        own = [s(x.astype(np.float64), axis=others) for s in (np.mean, np.var)]
        result = self._normalised(node, [x, *(v.reshape(-1, *[1] * (x.ndim - 2)) for v in (*vectors[:2], *own))])
        kept = float(node.attrs.get("momentum", np.float32(0.9)))
        running = [(v * kept + new * (1 - kept)).astype(v.dtype) for v, new in zip(vectors[2:], own, strict=True)]
        return [result, *running]

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        return self._normalised(node, [np.asarray(v) for v in operands[:5]])

    @staticmethod
    def _normalised(node: gs.Node, operands: Sequence[Array]) -> Array:
        x, scale, bias, mean, variance = (v.astype(np.float64) for v in operands)
        dtype = node.inputs[0].dtype
        result = (x - mean) / np.sqrt(variance + node.attrs.get("epsilon", np.float32(1e-5))) * scale + bias
        return np.asarray(result.astype(dtype if dtype is not None else np.float32))

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return [] if self._trains(node) else super().links(node, facts)

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        """A scale of zero leaves the bias."""
        scale, bias, mean, variance = operands[1:5]
        if scale is None or bias is None or mean is None or variance is None:
            return None
        sound = mean.mask & variance.mask & (variance.value >= 0)
        return ConstantSlices(scale.mask & (scale.value == 0) & bias.mask & sound, bias.value)

    @staticmethod
    def _trains(node: gs.Node) -> bool:
        return len(node.outputs) > 1 or bool(node.attrs.get("training_mode", 0))

    def affine(self, node: gs.Node) -> Affine | None:
        operands = [t for t in node.inputs[1:5] if is_constant(t)]
        rank = len(shape_of(node.inputs[0]) or ())
        if self._trains(node) or len(operands) < 4 or rank < 2:
            return None
        scale, bias, mean, variance = (np.asarray(t.values, np.float64) for t in operands)
        factor = scale / np.sqrt(variance + node.attrs.get("epsilon", np.float32(1e-5)))
        return Affine(node.inputs[0], factor, bias - mean * factor, rank - 1)

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        rank = len(shape_of(node.inputs[0]) or ())
        return not self._trains(node) and rank > 1 and fuser.into_weights(node, affine, 0, rank - 1)
