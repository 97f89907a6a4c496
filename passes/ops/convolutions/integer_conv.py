"""Convolutions of integers around zero points: ConvInteger and QLinearConv."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import ConstantSlices
from passes.graph.tensors import Array, Mask, is_constant, operand, shape_of
from passes.ops.base import register
from passes.ops.contractions.integer import IntegerSums, Operands
from passes.ops.convolutions.grouped_sums import GroupedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.weights.statistics import Nonzero


@register("ConvInteger")
class ConvInteger(IntegerSums, GroupedSums):
    """int32 out. Padding lies at the zero point of the data."""

    width_axis = None
    free = 0
    per_output: tuple[int, ...] = (3,)

    def has_stored_weights(self, node: gs.Node) -> bool:
        """As well, that what is beside them is stored, and is one number or as many as there are channels."""
        (out, _), beside = self.channels(node), [operand(node, i) for i in self.per_output]
        fits = all(is_constant(t) and shape_of(t) in ((), (1,), (out,)) for t in beside if t is not None)
        return fits and super().has_stored_weights(node)

    def weights(self, node: gs.Node, facts: Facts) -> Array:
        return self.steps(node)

    def connected(self, node: gs.Node, facts: Facts) -> Nonzero:
        steps = self.steps(node)
        return Nonzero.of(np.asarray((steps != 0).any(axis=tuple(range(2, steps.ndim)))))

    def constant_inputs(self, node: gs.Node, facts: Facts) -> ConstantSlices:
        return self.from_zero(node, facts, 0, 1)

    def add_constants(self, node: gs.Node, rewriter: Rewriter, inputs: Mask, outputs: Mask) -> None:
        if self.has_stored_zero(rewriter.before):
            super().add_constants(node, rewriter, inputs, outputs)

    def dtype_of_sums(self, node: gs.Node) -> np.dtype[np.generic]:
        return np.dtype(np.int32)


@register("QLinearConv")
class QLinearConv(ConvInteger):
    """Steps of a given scale out, with an int32 bias."""

    weight, addend = 3, 8
    operands = Operands(2, 5, output_zero=7, scales=(1, 4, 6))
    per_output = (4, 5, 6, 7, 8)
