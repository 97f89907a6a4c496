"""Transposed convolutions."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.polynomial import Polynomial
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule, times
from passes.abstract_values.windows import Window, kernel_windows
from passes.graph.editor import Change
from passes.graph.tensors import Array, Dim, operand, product, shape_of, volume
from passes.ops.base import register
from passes.ops.convolutions.channel_groups import group_size
from passes.ops.convolutions.convolution import Convolution
from passes.rewriting.weight_scaling import Fuser


@register("ConvTranspose")
class ConvTranspose(SizeRule, Convolution):
    """Weights [in, out / group, *kernel]. A constant channel never adds the same everywhere: windows overlap."""

    channel_axes = (1, 0)

    def by_output(self, weights: Array, groups: int) -> Array:
        rows, columns, *kernel = weights.shape
        grouped = weights.reshape(groups, rows // groups, columns, *kernel)
        return np.swapaxes(grouped, 1, 2).reshape(groups * columns, rows // groups, *kernel)

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        data, weights = shape_of(node.inputs[0]), shape_of(node.inputs[1]) or ()
        windows = None if "output_shape" in node.attrs else kernel_windows(weights, node.attrs)
        if data is None or windows is None or len(data) != len(weights):
            return None
        more = node.attrs.get("output_padding") or [0] * len(windows)
        return [data[0], times(weights[1], group_size(node)), *map(_covered, data[2:], windows, more)]

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        return group_size(node) == 1 and super().fold_output_affine(node, affine, fuser)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        return super().fold_input_affine(node, index, affine, fuser) if group_size(node) == 1 else None

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Every input element meets out / group · kernel weights; the bias adds one per output element."""
        macs = volume(node.inputs[0]) * product((shape_of(node.inputs[1]) or ())[1:])
        out = volume(node.outputs[0])
        return max(2 * macs - out, 0) + (out if operand(node, 2) is not None else 0), macs


def _covered(size: Dim, window: Window, more: int) -> Dim:
    """The positions that windows at each of `size` cover, and `more`, without the padding."""
    last = window.reach + 1 + more
    if size is None or (window.same and last < window.stride):  # more is asked for, and not all runtimes add it
        return None
    rest = 0 if window.same else last - window.stride - window.before - window.after
    return (Polynomial.of(size) * Polynomial.of(window.stride) + Polynomial.of(rest)).dim
