"""Einsum: contractions whose axes an equation names."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine
from passes.graph.tensors import Dim, is_constant, shape_of
from passes.ops.base import register
from passes.ops.contractions.base import Contraction
from passes.ops.contractions.labels import Terms
from passes.rewriting.weight_scaling import AffineFolding, Fuser


@register("Einsum")
class Einsum(Contraction, AffineFolding):
    """Einstein's convention, with ellipsis; a letter that one operand has twice needs all channels.

    Source: ONNX operator specification, Einsum.
    """

    def contradiction(self, node: gs.Node) -> str:
        terms = str(node.attrs["equation"]).replace(" ", "").partition("->")[0].split(",")
        for term, tensor in zip(terms, node.inputs, strict=False):
            shape = shape_of(tensor)
            if shape is not None and "..." not in term and len(term) != len(shape):
                return f"its equation has {len(term)} axes for `{tensor.name}`, which has {len(shape)}"
        return ""

    def terms(self, node: gs.Node) -> Terms | None:
        left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
        operands, shapes = left.split(","), [shape_of(t) for t in node.inputs]
        if len(operands) != len(shapes):
            return None
        factors = [_letters(t, shape) for t, shape in zip(operands, shapes, strict=True)]
        if not arrow:
            letters = left.replace(",", "").replace("...", "")
            right = "..." * ("..." in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        output = _letters(right, shape_of(node.outputs[0]))
        if output is None or not all(factors):
            return None
        given = [letters for letters in factors if letters is not None]
        return Terms(given, output) if {*output} <= {k for letters in given for k in letters} else None

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """A scale along an axis that only the weights have; a shift has no place here."""
        terms = self.terms(node)
        if terms is None or len(terms.factors) != 2 or affine.shift.any() or affine.axis is None:
            return False
        letter, (data, weights) = terms.output[-affine.axis], terms.factors
        if is_constant(node.inputs[0]) or letter in data or list(weights).count(letter) != 1:
            return False
        return fuser.into_weights(node, affine, weights.index(letter), affine.axis)


def _letters(term: str, shape: tuple[Dim, ...] | None) -> list[str] | None:
    """The axes of a term; those in place of an ellipsis are numbered from their last. None where they do not fit."""
    before, dots, after = term.partition("...")
    hidden = -1 if shape is None else len(shape) - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        return None
    return [*before, *(f".{i}" for i in reversed(range(hidden))), *after]
