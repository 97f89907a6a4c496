"""Shapes of what operators write that stay, by the shapes of what they read: onnx does not know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_graphsurgeon as gs

from passes.graph.tensors import Dim, shape_of
from passes.model.contrib_operators.call import MALFORMED
from passes.ops.attention.fused import FusedAttention
from passes.ops.base import rules_of

#: the shapes of the outputs, all of the element type of input 0; fewer where they are not known
OutputShapes = Callable[[gs.Node], Sequence[Sequence[Dim]]]


def _of_input(node: gs.Node) -> Sequence[Sequence[Dim]]:
    shape = shape_of(node.inputs[0])
    return [] if shape is None else [shape]


def _product(node: gs.Node) -> Sequence[Sequence[Dim]]:
    return [[*shape[:-1], int(node.attrs["N"])] for shape in _of_input(node)]


def _attention(node: gs.Node) -> Sequence[Sequence[Dim]]:
    """The result, the keys and values of all tokens, and the scores."""
    op, query = rules_of(str(node.domain), str(node.op)), shape_of(node.inputs[0])
    if query is None or not isinstance(op, FusedAttention):
        return []
    (queries, keys, channels, values), _ = op.parts(node)
    batch, tokens = query[:2]
    caches: list[list[Dim]] = [[batch, keys, None, channels], [batch, keys, None, values]]
    if {str(node.attrs.get(name, "NONE")) for name in ("k_quant_type", "v_quant_type")} != {"NONE"}:
        caches = []  # of another type, and perhaps packed
    return [[batch, tokens, queries * values], *caches, *([[batch, queries, tokens, None]] if caches else [])]


#: by the operator in ONNX Runtime's domain
OUTPUT_SHAPES: Mapping[str, OutputShapes] = {
    "DecoderMaskedMultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "MatMulNBits": _product,
    "MultiHeadAttention": _attention,
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
