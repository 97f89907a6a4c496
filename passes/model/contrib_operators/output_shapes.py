"""Shapes of what operators write that stay, by the shapes of what they read: onnx does not know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import OutputSizesRule
from passes.graph.tensors import Dim, shape_of
from passes.model.contrib_operators.call import MALFORMED
from passes.ops.base import rules_of

#: the shapes of the outputs, all of the element type of input 0; fewer where they are not known
OutputShapes = Callable[[gs.Node], Sequence[Sequence[Dim]]]


def _of_input(node: gs.Node) -> Sequence[Sequence[Dim]]:
    shape = shape_of(node.inputs[0])
    return [] if shape is None else [shape]


def _product(node: gs.Node) -> Sequence[Sequence[Dim]]:
    return [[*shape[:-1], int(node.attrs["N"])] for shape in _of_input(node)]


def _by_rule(node: gs.Node) -> Sequence[Sequence[Dim]]:
    op = rules_of(str(node.domain), str(node.op))
    return op.output_sizes(node) if isinstance(op, OutputSizesRule) else []


#: by the operator in ONNX Runtime's domain
OUTPUT_SHAPES: Mapping[str, OutputShapes] = {
    "DecoderMaskedMultiHeadAttention": _by_rule,
    "DynamicQuantizeLSTM": _by_rule,
    "GroupQueryAttention": _by_rule,
    "MatMulNBits": _product,
    "MultiHeadAttention": _by_rule,
    "PackedMultiHeadAttention": _by_rule,
    "RotaryEmbedding": _of_input,
}


def tell_shapes(node: gs.Node) -> bool:
    """Write the shapes onto the outputs of an operator of the table; whether any is known."""
    try:
        shapes = OUTPUT_SHAPES[node.op](node)
    except MALFORMED:
        return False
    for tensor, shape in zip(node.outputs, shapes, strict=False):
        if isinstance(tensor, gs.Variable) and not tensor.is_empty():
            tensor.dtype, tensor.shape = node.inputs[0].dtype, list(shape)
    return bool(shapes)
