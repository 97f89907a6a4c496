"""A matrix product with a weight in blocks of few bits, which share a scale: only whole rows of it can go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Sets
from passes.graph.tensors import Dim, Mask, is_constant, operand, shape_of, volume
from passes.ops.base import Op, register
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter

# Operands that have a row, or as many elements as a row has blocks, for each column of the output.
_BY_ROW = (1, 2, 3, 5)


@register("MatMulNBits", domain="com.microsoft")
class MatMulNBits(Op):
    """A · Wᵀ + bias for W [N, K] in blocks along K. Source: ONNX Runtime's contrib operators."""

    width_axis = -1

    def output_shapes(self, node: gs.Node) -> Sequence[Sequence[Dim] | None]:
        shape = shape_of(node.inputs[0])
        return [None if shape is None else [*shape[:-1], int(node.attrs["N"])]]

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        last = len(shape_of(node.outputs[0]) or ()) - 1
        given = [t for index in _BY_ROW if (t := operand(node, index)) is not None]
        stored = all(is_constant(t) for t in given) and not node.attrs.get("weight_prepacked", 0)
        return {key: mask for key, mask in asked.items() if key == (0, last) and stored}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        before = rewriter.before
        kept = rewriter.stored(before.outputs[0], len(rewriter.shape(before.outputs[0])) - 1)
        if kept is None:
            return
        for index in _BY_ROW:
            tensor = operand(before, index)
            if tensor is not None:
                rewriter.set_input(node, index, rewriter.slice(tensor, {0: _spread(kept, int(tensor.shape[0]))}))
        node.attrs["N"] = int(kept.sum())

    def cost(self, node: gs.Node) -> tuple[int, int]:
        out, k = volume(node.outputs[0]), int(node.attrs["K"])
        return out * (2 * k - 1) + (out if operand(node, 5) is not None else 0), out * k


def _spread(rows: Mask, size: int) -> Mask:
    """For an operand of `size` elements along its first axis, those that belong to these rows."""
    return np.repeat(rows, size // rows.size)
