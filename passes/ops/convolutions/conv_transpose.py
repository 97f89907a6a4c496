"""Transposed convolutions."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine
from passes.graph.editor import Change
from passes.graph.tensors import operand, product, shape_of, volume
from passes.ops.base import register
from passes.ops.convolutions.channel_groups import group_size
from passes.ops.convolutions.convolution import Convolution
from passes.rewriting.channel_facts import Facts
from passes.rewriting.weight_scaling import Fuser


@register("ConvTranspose")
class ConvTranspose(Convolution):
    """Weights [in, out / group, *kernel]. A constant channel never adds the same everywhere: windows overlap."""

    channel_axes = (1, 0)

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        return group_size(node) == 1 and super().fold_output_affine(node, affine, fuser)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        return super().fold_input_affine(node, index, affine, fuser) if group_size(node) == 1 else None

    def understood_shapes(self, node: gs.Node, facts: Facts) -> bool:
        return group_size(node) == 1 and super().understood_shapes(node, facts)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Every input element meets out / group · kernel weights; the bias adds one per output element."""
        macs = volume(node.inputs[0]) * product((shape_of(node.inputs[1]) or ())[1:])
        out = volume(node.outputs[0])
        return max(2 * macs - out, 0) + (out if operand(node, 2) is not None else 0), macs
