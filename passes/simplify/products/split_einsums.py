"""An Einsum of three operands or more is one of two after another, from the left, as ONNX Runtime computes it.

Of products of two factors it is known which channels need which, as in linear attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import Dim, shape_of
from passes.ops import rules
from passes.ops.contractions.einsum import Einsum


def split(graph: gs.Graph) -> None:
    """Write each Einsum of more than two operands, whose axes all have letters, as Einsums of two."""
    editor = GraphEditor(graph)
    for node in graph.nodes:
        op = rules(node)
        terms = op.terms(node) if isinstance(op, Einsum) and len(node.inputs) > 2 else None
        if terms is None or "." in str(node.attrs["equation"]):
            continue
        sizes: dict[str, Dim] = {}
        for letters, operand in zip(terms.factors, node.inputs, strict=True):
            sizes |= zip(letters, shape_of(operand) or (), strict=True)
        (left, *others), (tensor, *operands), output = terms.factors, node.inputs, node.outputs[0]
        while len(others) > 1:
            right, operand = others.pop(0), operands.pop(0)
            read = {*chain(*others), *terms.output}
            kept = [letter for letter in dict.fromkeys([*left, *right]) if letter in read]
            part = editor.variable(f"{output.name}_part", output.dtype, [sizes[letter] for letter in kept])
            equation = {"equation": _equation(left, right, kept)}
            tensor, left = editor.emit("Einsum", [tensor, operand], part, part.name, equation, before=node), kept
        become(node, "Einsum", [tensor, *operands], {"equation": _equation(left, others[0], terms.output)})
    editor.finish()


def _equation(left: Iterable[str], right: Iterable[str], output: Iterable[str]) -> str:
    return f"{''.join(left)},{''.join(right)}->{''.join(output)}"
