"""Rotary embeddings: pairs of channels turned by an angle for each position, the same in all heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.shape_rules import OutputSizesRule, Shape
from passes.abstract_values.slices import Constants, Demand, Demands, Reads, Sets
from passes.graph.tensors import Index, Mask, rank_of, shape_of, size_of
from passes.ops.attention.heads import MALFORMED, Heads, Place
from passes.ops.base import UNKNOWN, Op, register
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter


@register("RotaryEmbedding")
class RotaryEmbedding(OutputSizesRule, Op):
    """Turns pairs of channels by an angle for each position: heads go, and pairs that none of them needs."""

    reason = kept_reasons.HEADS
    flops_per_element = 3  # two products and a sum
    #: inputs: cosines and sines, with one for each pair along the last axis
    caches = (1, 2)

    def form(self, node: gs.Node) -> Op:
        try:
            heads = self._heads(node)
            angles = {size_of(node.inputs[i], rank_of(node.inputs[i]) - 1) for i in self.caches}
            return self if heads.fit(node) and angles == {self._pairs(node, heads).shape[1]} else UNKNOWN
        except MALFORMED:
            return UNKNOWN

    def output_sizes(self, node: gs.Node) -> Sequence[Shape]:
        shape = shape_of(node.inputs[0]) if node.inputs else None
        return [] if shape is None else [shape]

    def _heads(self, node: gs.Node) -> Heads:
        shape, count = shape_of(node.inputs[0]) or (), int(node.attrs.get("num_heads", 0))
        axes = (2, 2) if len(shape) == 3 else (1, 3)
        width = size_of(node.inputs[0], axes[1]) or 0
        if len(shape) == 3:
            cosines = node.inputs[self.caches[0]]
            count = count or width // (2 * (size_of(cosines, rank_of(cosines) - 1) or 0))
            width //= count
        else:
            count = size_of(node.inputs[0], 1) or 0
        place = Place(0, "value", *axes)
        return Heads(count, count, 1, width, [place], [Place(0, "result", *axes)], narrows=True)

    @staticmethod
    def _pairs(node: gs.Node, heads: Heads) -> Index:
        """Both channels of each pair within a head: int64 [2, pairs]."""
        turned = np.arange(int(node.attrs.get("rotary_embedding_dim", 0)) or heads.values)
        return turned.reshape(-1, 2).T if node.attrs.get("interleaved", 0) else turned.reshape(2, -1)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        heads = self._heads(node)
        zero = heads.known(node, facts, "value").only(0)
        pairs = self._pairs(node, heads)
        zero.mask[:, pairs] = zero.mask[:, pairs].all(axis=1, keepdims=True)
        yield from heads.constants(node, {"result": zero})

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        heads = self._heads(node)
        place = heads.outputs[0]
        read = self._whole_pairs(node, heads, {(0, a): facts.live(node.outputs[0], a) for a in place.axes})
        for (index, axis), mask in heads.sets(heads.inputs, node.inputs, {"value": read}).items():
            yield index, axis, mask

    def _whole_pairs(self, node: gs.Node, heads: Heads, sets: Sets) -> Mask:
        """What the sets of the output hold and, of each pair of which they hold one channel, the other."""
        found, pairs = heads.wanted(sets)["result"], self._pairs(node, heads)
        found[:, pairs] = found[:, pairs].any(axis=1, keepdims=True)
        return found

    def _kept(self, node: gs.Node, heads: Heads, sets: Sets) -> Mask:
        """The least that holds the sets: the same channels in all heads that are left, one pair at least."""
        whole = self._whole_pairs(node, heads, sets)
        channels, pairs = np.asarray(whole.any(axis=0)), self._pairs(node, heads)
        if not channels[pairs].any():
            channels[pairs[:, 0]] = True
        return np.asarray(whole.any(axis=1, keepdims=True) & channels)

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        heads = self._heads(node)
        return heads.sets(heads.outputs, node.outputs, {"result": self._kept(node, heads, asked)})

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        heads = self._heads(node)
        kept = self._kept(node, heads, stored)
        found = heads.sets(heads.inputs, node.inputs, {"value": kept})
        demands = {key: Demand(mask, reason=self.reason, echo=(0, key[1])) for key, mask in found.items()}
        turned = np.asarray(kept.any(axis=0))[self._pairs(node, heads)[0]]
        return demands | {(i, rank_of(node.inputs[i]) - 1): Demand(turned) for i in self.caches}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        before = rewriter.before
        heads, output = self._heads(before), before.outputs[0]
        axes = heads.outputs[0].axes
        kept = self._kept(before, heads, {(0, a): m for a in axes if (m := rewriter.stored(output, a)) is not None})
        if node.attrs.get("num_heads", 0):
            node.attrs["num_heads"] = int(kept.any(axis=1).sum())
        if node.attrs.get("rotary_embedding_dim", 0):
            node.attrs["rotary_embedding_dim"] = int(np.asarray(kept.any(axis=0))[self._pairs(before, heads)].sum())

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [(0, axis)]


@register("RotaryEmbedding", domain="com.microsoft")
class RotaryEmbeddingByPosition(RotaryEmbedding):
    """The same with positions as its second operand; without an attribute, the angles tell how many heads there are."""

    caches = (2, 3)
