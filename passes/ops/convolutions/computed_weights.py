"""Convolutions as products of two factors, of which both may be computed: dynamic and modulated ones, for instance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from passes.abstract_values.slices import ConstantSlices
from passes.graph.tensors import is_constant, operand, shape_of, size_of
from passes.ops.base import Op
from passes.ops.contractions.base import Contraction
from passes.ops.contractions.labels import WHOLE, Label, Projection, Terms
from passes.ops.convolutions.channel_groups import group_size
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter


def is_computed(weights: gs.Tensor | None) -> bool:
    """Whether the weights of a convolution are there, and are no initializer."""
    return weights is not None and not is_constant(weights)


class ComputedWeights(Contraction):
    """Sums over the channels of both; positions and windows stay whole, and nothing can be put into the weights.

    In one group, or with one filter for each channel.
    """

    width_axis: int | None = 1
    channel_axes = (0, 1)
    #: the operand that is added
    bias = 2
    maps = Op.maps

    def terms(self, node: gs.Node) -> Terms | None:
        ranks = {len(shape_of(t) or ()) for t in (*node.inputs[:2], node.outputs[0])}
        if len(ranks) > 1 or (rank := ranks.pop()) < 3:
            return None
        letters, out, others = ["o", "c"] if self.channel_axes == (0, 1) else ["c", "o"], "o", [WHOLE] * (rank - 2)
        if (groups := group_size(node)) > 1:
            if [size_of(node.inputs[1], axis) for axis in (0, 1)] != [groups, 1]:
                return None
            letters, out = ["c", WHOLE], "c"
        return Terms(([WHOLE, "c", *others], [*letters, *others]), [WHOLE, out, *others])

    def is_batch(self, node: gs.Node, axis: int) -> bool:
        return group_size(node) > 1

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        super().lower(node, rewriter)
        kept = rewriter.stored(rewriter.before.outputs[0], 1)
        if kept is not None and group_size(node) > 1:
            node.attrs["group"] = int(kept.sum())

    def beside(self, node: gs.Node) -> Iterator[tuple[int, int, int]]:
        if operand(node, self.bias) is not None:
            yield self.bias, 1, 0

    def projection(self, node: gs.Node, labels: Sequence[Label]) -> Projection | None:
        """None: a sum over windows is no product with a matrix."""
        return None

    def _mean(self, node: gs.Node, facts: Facts, label: Label) -> ConstantSlices | None:
        """None: windows are summed over as well."""
        return None

    def with_operands_beside(self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices) -> ConstantSlices:
        bias = operand(node, self.bias)
        return sums if bias is None or axis != 1 else sums.plus(facts.known(bias, 0))
