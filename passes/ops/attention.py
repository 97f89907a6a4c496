"""The Attention operator: it requires all channels, or is decomposed into matrix products where some are zero."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Dim, is_float, numpy_dtype, operand, product, shape_of, volume
from passes.ops.base import Op, register
from passes.ops.softmax_like import Softmax
from passes.ops.traits import Decomposable
from passes.rewriting.channel_facts import Facts
from passes.rewriting.op_decomposition import Decomposition


@register("Attention")
class Attention(Op, Decomposable):
    """softmax(scale · Q Kᵀ + mask) V, heads by an axis of their own or within the last one.

    Source: ONNX operator specification, Attention. What it has beyond this formula (a cache of keys and values, a
    causal mask, a cap, fewer heads of keys) is left whole.
    """

    def decompose(self, node: gs.Node, facts: Facts, writing: Decomposition) -> bool:
        heads = self._heads(node)
        if heads is None or not self._is_masked(node, facts):
            return False
        q, k, v = list(node.inputs)[:3]
        rank = len(shape_of(q) or ())
        size = product((shape_of(q) or ())[-1:]) // (heads if rank == 3 else 1)  # channels of one head of the queries
        if rank == 3:
            q, v = (self._split(t, heads, (0, 2, 1, 3), writing) for t in (q, v))
            k = self._split(k, heads, (0, 2, 3, 1), writing)
        else:
            k = writing.emit("Transpose", [k], _permuted(shape_of(k) or (), (0, 1, 3, 2)), perm=[0, 1, 3, 2])
        scale = float(node.attrs.get("scale", 0.0)) or float(size) ** -0.5
        factor = writing.constant("scale", np.asarray(scale, numpy_dtype(q)))
        shape: list[Dim] = list(shape_of(q) or ())
        scaled = writing.emit("Mul", [q, factor], shape)
        shape[-1] = (shape_of(k) or (None,))[-1]
        scores = writing.emit("MatMul", [scaled, k], shape)
        mask = operand(node, 3)
        if mask is not None:
            scores = writing.emit("Add", [scores, mask], shape)
        weights = writing.emit("Softmax", [scores], shape, axis=-1)
        shape = [*shape[:-1], (shape_of(v) or (None,))[-1]]
        if rank == 4:
            writing.last("MatMul", [weights, v], node.outputs[0])
            return True
        mixed = writing.emit("MatMul", [weights, v], shape)
        merged = writing.emit("Transpose", [mixed], _permuted(tuple(shape), (0, 2, 1, 3)), perm=[0, 2, 1, 3])
        sizes = writing.constant("together", np.asarray([0, 0, (shape_of(node.inputs[2]) or (0,))[-1]], np.int64))
        writing.last("Reshape", [merged, sizes], node.outputs[0])
        return True

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Of what it is decomposed into: both products, scaled queries, a mask that is added, and a softmax."""
        q, k = (shape_of(t) or () for t in node.inputs[:2])
        heads = int(node.attrs.get("q_num_heads", 0)) if len(q) == 3 else 1  # in the last axis
        size = max(product(q[-1:]) // max(heads, 1), 1)
        tokens = product(k[-2:-1])
        scores = product(q) // size * tokens
        mixed = volume(node.outputs[0])
        added = scores if operand(node, 3) is not None else 0
        flops = product(q) + scores * (2 * size - 1 + Softmax.flops_per_element) + added + mixed * (2 * tokens - 1)
        return flops, scores * size + mixed * tokens

    def _heads(self, node: gs.Node) -> int | None:
        """Number of heads, None where the node is more than the formula."""
        q, k, v = (shape_of(t) for t in list(node.inputs)[:3])
        if self._has_more(node) or q is None or k is None or v is None or not len(q) == len(k) == len(v):
            return None
        if not self._adds_mask(node, k[-2]):
            return None
        if len(q) == 4:
            alike = q[1] == k[1] == v[1]
            return q[1] if alike and isinstance(q[1], int) and isinstance(q[3], int) else None
        count = int(node.attrs.get("q_num_heads", 0))
        static = all(isinstance(shape[2], int) for shape in (q, k, v))
        return count if static and count and count == int(node.attrs.get("kv_num_heads", 0)) else None

    @staticmethod
    def _has_more(node: gs.Node) -> bool:
        """Whether the node has a cache, further outputs, or attributes that the formula has not."""
        cache = any(operand(node, i) is not None for i in range(4, len(node.inputs)))
        others = sum(not t.is_empty() for t in node.outputs) > 1
        changed = any(node.attrs.get(name, 0) for name in ("is_causal", "softcap", "softmax_precision"))
        return cache or others or changed or not is_float(node.inputs[0])

    @staticmethod
    def _adds_mask(node: gs.Node, tokens: Dim) -> bool:
        """Whether the mask, where there is one, is added to the scores: numbers, one for each token of the keys."""
        mask = operand(node, 3)
        return mask is None or (is_float(mask) and tokens is not None and (shape_of(mask) or (None,))[-1] == tokens)

    @staticmethod
    def _is_masked(node: gs.Node, facts: Facts) -> bool:
        """Whether decomposing it lets any channel be removed."""
        if any(a and facts.zero(t, a).any() for t in node.inputs[:3] for a, _ in facts.axes(t)):
            return True
        y = node.outputs[0]
        return facts.is_live(y) and any(a and not facts.live(y, a).all() for a, _ in facts.axes(y))

    @staticmethod
    def _split(tensor: gs.Tensor, heads: int, perm: tuple[int, ...], writing: Decomposition) -> gs.Tensor:
        batch, time, width = shape_of(tensor) or (None, None, None)
        assert isinstance(width, int)
        shape = (batch, time, heads, width // heads)
        sizes = writing.constant("heads", np.asarray([0, 0, heads, width // heads], np.int64))
        split = writing.emit("Reshape", [tensor, sizes], list(shape))
        return writing.emit("Transpose", [split], _permuted(shape, perm), perm=list(perm))


def _permuted(shape: tuple[Dim, ...], perm: tuple[int, ...]) -> list[Dim]:
    return [shape[a] for a in perm]
