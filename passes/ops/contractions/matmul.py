"""Matrix products: MatMul, of vectors too, and Gemm, which adds a third operand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.shape_rules import ReadRule, Shape, ShapeVectors, SizeRule
from passes.abstract_values.slices import ConstantSlices
from passes.graph.editor import Change
from passes.graph.tensors import Array, is_constant, numpy_dtype, operand, shape_of, size_of, values_of, volume
from passes.ops.base import register
from passes.ops.contractions.base import Contraction
from passes.ops.contractions.labels import Terms, of_matrices
from passes.ops.traits import WeightedSum
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.rewriting.weight_scaling import AffineFolding, Fuser


@register("MatMul")
class MatMul(ReadRule, Contraction, AffineFolding):
    """numpy.matmul."""

    scope = "example"

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        data, weight = (shape_of(t) for t in node.inputs)
        if data and weight:
            yield 0, [*[None] * (len(data) - 1), weight[max(len(weight) - 2, 0)]]

    def terms(self, node: gs.Node) -> Terms | None:
        shapes = [shape_of(t) for t in (*node.inputs[:2], node.outputs[0])]
        return of_matrices(*(-1 if shape is None else len(shape) for shape in shapes))

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """With an operand of unknown rank, too: the other one says of how many products each element is the sum."""
        if self.terms(node) is not None:
            return super().cost(node)
        left, right = node.inputs[:2]
        rows = -2 if len(shape_of(right) or ()) > 1 else -1
        out, depth = volume(node.outputs[0]), size_of(left, -1) or size_of(right, rows) or 1
        return out * (2 * depth - 1), out * depth

    def is_batch(self, node: gs.Node, axis: int) -> bool:
        terms = self.terms(node)
        return terms is not None and terms.output[axis] not in ("m", "n")

    def add(self, node: gs.Node, rewriter: Rewriter, total: Array, axes: list[int], first: int = 0) -> None:
        super().add(node, rewriter, total, axes, min(axes, default=0))

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """A scale of the columns; a shift has no place here."""
        matrix = len(shape_of(node.inputs[1]) or ()) == 2
        return matrix and not affine.shift.any() and fuser.into_weights(node, affine, 1, 1)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        """A scale of the rows; a shift has no place here."""
        matrix = index == 0 and len(shape_of(node.inputs[1]) or ()) == 2 and affine.axis in (None, 1)
        return fuser.from_inputs(node, affine, (1, 0)) if matrix and not affine.shift.any() else None


@register("Gemm")
class Gemm(ReadRule, SizeRule, Contraction, AffineFolding):
    """alpha · op(A) · op(B) + beta · C on matrices."""

    addend = 2

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        beta = self._beta(node)
        for each in super().weighted_sums(node):
            yield replace(each, bias_scale=beta, bias_shape=each.bias_shape if beta else None)

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        """A matrix in any case, as many columns wide as the weight, whatever is known of the data."""
        rows, columns = (shape_of(tensor) for tensor in node.inputs[:2])
        turned = [bool(node.attrs.get(name, 0)) for name in ("transA", "transB")]
        return [
            rows[turned[0]] if rows is not None and len(rows) == 2 else None,
            columns[not turned[1]] if columns is not None and len(columns) == 2 else None,
        ]

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        turned = [bool(node.attrs.get(name, 0)) for name in ("transA", "transB")]
        for index, other in ((0, 1), (1, 0)):
            beside = shape_of(node.inputs[other])
            inner = beside[(index == 1) != turned[other]] if beside is not None and len(beside) == 2 else None
            yield index, [None, inner] if (index == 0) != turned[index] else [inner, None]

    def terms(self, node: gs.Node) -> Terms | None:
        if any(len(shape_of(t) or ()) != 2 for t in (*node.inputs[:2], node.outputs[0])):
            return None
        left, right = "mk", "kn"
        left, right = (t[::-1] if node.attrs.get(f"trans{name}", 0) else t for t, name in ((left, "A"), (right, "B")))
        return Terms(([*left], [*right]), ["m", "n"])

    def scale(self, node: gs.Node) -> float:
        return float(node.attrs.get("alpha", 1.0))

    @staticmethod
    def _beta(node: gs.Node) -> float:
        return float(node.attrs.get("beta", 1.0))

    def beside(self, node: gs.Node) -> Iterator[tuple[int, int, int]]:
        c = operand(node, 2)
        shape = () if c is None else shape_of(c)
        rank = 2 if shape is None else len(shape)
        yield from ((2, axis, axis - 2 + rank) for axis in range(2 - rank, 2))

    def with_operands_beside(self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices) -> ConstantSlices:
        c = operand(node, 2)
        if c is None:
            return sums
        own = [a for _, out, a in self.beside(node) if out == axis and facts.size(c, a) == sums.mask.size]
        known = facts.constant_slices(c, own[0]) if own else facts.repeated(c, sums.mask.size)
        return sums.plus(known, self._beta(node))

    def add(self, node: gs.Node, rewriter: Rewriter, total: Array, axes: list[int], first: int = 0) -> None:
        """Into a constant C, else by an Add after the product."""
        c, dtype = operand(node, 2), numpy_dtype(rewriter.before.outputs[0])
        total = total.reshape(-1, 1) if axes == [0] else total
        if c is None or not is_constant(c):
            rewriter.add_after(node, total.astype(dtype))
            return
        added = (self._beta(node) * values_of(c).astype(np.float64) + total).astype(dtype)
        node.attrs["beta"] = 1.0
        rewriter.set_input(node, 2, rewriter.shifted(c, total, added))

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        bias, axis = operand(node, 2), 0 if node.attrs.get("transB", 0) else 1
        columns = size_of(node.inputs[1], axis)
        wide = bias is None or (is_constant(bias) and tuple(bias.shape) in ((columns,), (1, columns)))
        plain = self.scale(node) == self._beta(node) == 1.0
        return plain and wide and fuser.into_weights(node, affine, axis, 1)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        bias, out = operand(node, 2), 0 if node.attrs.get("transB", 0) else 1
        if index != 0 or affine.axis not in (None, 1) or node.attrs.get("transA", 0):
            return None
        if affine.shift.any():
            wide = bias is None or shape_of(bias) == (size_of(node.inputs[1], out),)
            if not wide or self.scale(node) != 1 or self._beta(node) != 1:
                return None
        return fuser.from_inputs(node, affine, (out, 1 - out))
