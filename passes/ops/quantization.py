"""Operators between numbers and the steps of a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Link
from passes.graph.tensors import Array, Dim, is_constant, operand, shape_of
from passes.ops.base import register
from passes.ops.elementwise import PerChannel
from passes.weights.quantized import Quantized

if TYPE_CHECKING:
    from passes.rewriting.channel_facts import Facts


class Quantization(PerChannel):
    """Scale and zero point are scalars or vectors along `axis`; blocked scales of computed tensors are not understood.

    Source: ONNX operator specification, QuantizeLinear and DequantizeLinear.
    """

    def channel_axis(self, node: gs.Node) -> int:
        return int(node.attrs.get("axis", 1))

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        blocked = node.attrs.get("block_size", 0) or len(shape_of(node.inputs[1]) or ()) > 1
        return [] if blocked else super().links(node, facts)

    def contradiction(self, node: gs.Node) -> str:
        data = shape_of(node.inputs[0])
        for name, tensor in (("scale", operand(node, 1)), ("zero point", operand(node, 2))):
            shape = None if tensor is None else shape_of(tensor)
            if data is not None and shape is not None and not self._fits(node, data, shape):
                return f"its {name} has shape {list(shape)}, which does not fit data of shape {list(data)}"
        return ""

    def _fits(self, node: gs.Node, data: tuple[Dim, ...], shape: tuple[Dim, ...]) -> bool:
        axis, block = self.channel_axis(node), int(node.attrs.get("block_size", 0))
        if not all(isinstance(d, int) for d in shape) or (not block and shape in ((), (1,))):
            return True
        axis = axis + len(data) if axis < 0 else axis
        if axis >= len(data) or len(shape) != (len(data) if block else 1):
            return False
        wanted = list(data) if block else [data[axis]]
        size = data[axis]
        if block and isinstance(size, int):
            wanted[axis] = -(-size // block)
        return all(w == s for w, s in zip(wanted, shape, strict=True) if isinstance(w, int))


@register("QuantizeLinear")
class Quantize(Quantization):
    """To the nearest step, ties to the even one, within the range of the type."""

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        x, scale, zero = [*operands, None][:3]
        dtype = node.outputs[0].dtype
        if x is None or scale is None or dtype is None or np.dtype(dtype).kind not in "iu" or x.dtype.kind not in "fi":
            return None
        limits = np.iinfo(dtype)
        with np.errstate(all="ignore"):
            steps = np.rint(x.astype(np.float32) / scale.astype(np.float32)).astype(np.float64)
        if not np.isfinite(steps).all():
            return None
        return np.clip(steps + (0.0 if zero is None else zero), limits.min, limits.max).astype(dtype)


@register("DequantizeLinear")
class Dequantize(Quantization):
    """Weights behind it keep their few bits, and are read and sliced as the numbers that they stand for."""

    foldable = False

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        x, scale, zero = [*operands, None][:3]
        if x is None or scale is None or x.dtype.kind not in "iu":
            return None
        wide = x.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
        return np.asarray((wide.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype))

    def quantized(self, node: gs.Node) -> Quantized | None:
        if self.contradiction(node):
            return None
        stored, scale, zero = (operand(node, i) for i in range(3))
        if stored is None or scale is None or not all(is_constant(t) for t in (stored, scale, zero) if t is not None):
            return None
        if any(isinstance(t, Quantized) or isinstance(t.dtype, int) for t in (stored, scale, zero) if t is not None):
            return None
        whole = stored.dtype == np.int32 or np.dtype(stored.dtype).name.lstrip("u") in _FEW_BITS
        typed = node.attrs.get("output_dtype", 0) == 0
        return Quantized(node.outputs[0].name, stored, scale, zero, node.attrs) if whole and typed else None


_FEW_BITS = {"int2", "int4", "int8", "int16"}
