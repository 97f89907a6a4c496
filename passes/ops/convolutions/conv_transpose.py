"""Transposed convolutions."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap, Sliding
from passes.abstract_values.polynomial import Polynomial
from passes.abstract_values.row_index import Rows
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.shape_rules import Shape, ShapeVectors, times
from passes.abstract_values.windows import Window, kernel_windows
from passes.graph.editor import Change
from passes.graph.tensors import Array, Dim, operand, product, shape_of, volume
from passes.ops.base import Op, register
from passes.ops.convolutions.channel_groups import group_size
from passes.ops.convolutions.computed_weights import ComputedWeights, is_computed
from passes.ops.convolutions.convolution import Convolution
from passes.rewriting.channel_facts import Facts
from passes.rewriting.weight_scaling import Fuser


@register("ConvTranspose")
class ConvTranspose(Convolution):
    """Weights [in, out / group, *kernel]. A constant channel never adds the same everywhere: windows overlap."""

    channel_axes = (1, 0)
    slides = "ConvTranspose"

    def form(self, node: gs.Node) -> Op:
        return _OF_COMPUTED_WEIGHTS if is_computed(operand(node, 1)) else self

    def by_output(self, weights: Array, groups: int) -> Array:
        rows, columns, *kernel = weights.shape
        grouped = weights.reshape(groups, rows // groups, columns, *kernel)
        return np.swapaxes(grouped, 1, 2).reshape(groups * columns, rows // groups, *kernel)

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        data, weights, windows = shape_of(node.inputs[0]), shape_of(node.inputs[1]) or (), self.windows(node)
        if data is None or windows is None or len(data) != len(weights):
            return None
        more = node.attrs.get("output_padding") or [0] * len(windows)
        return [data[0], times(weights[1], group_size(node)), *map(_covered, data[2:], windows, more)]

    def spreads_evenly(self, node: gs.Node) -> bool:
        return False

    def sliding(self, node: gs.Node, facts: Facts, known: ConstantMap) -> tuple[Sliding, ConstantMap] | None:
        """As of a convolution that slides backwards, in steps of one, over the input with zeros in its gaps."""
        over = self.windows(node)
        sizes = [facts.size(node.inputs[0], axis) for axis in range(2, len(known.index) + 1)]
        if over is None or not known.is_static() or any(w.same for w in over):
            return None
        index, value, spread = [known.index[0]], np.pad(known.value, [(0, 0), (0, 0), *[(0, 1)] * len(over)]), []
        more = node.attrs.get("output_padding") or [0] * len(over)
        for axis, (window, size) in enumerate(zip(over, sizes, strict=True), 1):
            if not size:
                return None
            rows = known.index[axis]
            places = np.full((size - 1) * window.stride + 1, known.value.shape[axis + 1])
            places[:: window.stride] = 0 if rows is None else rows.places
            index.append(Rows(places))
            spread.append(places.size)
        windows = [
            Window(w.size, dilation=-w.dilation, before=-w.before, after=extra - w.after)
            for w, extra in zip(over, more, strict=True)
        ]
        return Sliding(windows, spread), ConstantMap(known.mask, value, tuple(index))

    def windows(self, node: gs.Node) -> list[Window] | None:
        """What each position of the input reaches; None where it is chosen by the size of the output."""
        return None if "output_shape" in node.attrs else kernel_windows(shape_of(node.inputs[1]) or (), node.attrs)

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        return group_size(node) == 1 and super().fold_output_affine(node, affine, fuser)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        return super().fold_input_affine(node, index, affine, fuser) if group_size(node) == 1 else None

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Every input element meets out / group · kernel weights; the bias adds one per output element."""
        macs = volume(node.inputs[0]) * product((shape_of(node.inputs[1]) or ())[1:])
        out = volume(node.outputs[0])
        return max(2 * macs - out, 0) + (out if operand(node, 2) is not None else 0), macs


class _ConvTransposeOfComputedWeights(ComputedWeights, ConvTranspose):
    channel_axes = (1, 0)
    cost = ConvTranspose.cost


_OF_COMPUTED_WEIGHTS = _ConvTransposeOfComputedWeights()


def _covered(size: Dim, window: Window, more: int) -> Dim:
    """The positions that windows at each of `size` cover, and `more`, without the padding."""
    last = window.reach + 1 + more
    if size is None or (window.same and last < window.stride):  # more is asked for, and not all runtimes add it
        return None
    rest = 0 if window.same else last - window.stride - window.before - window.after
    return (Polynomial.of(size) * Polynomial.of(window.stride) + Polynomial.of(rest)).dim
