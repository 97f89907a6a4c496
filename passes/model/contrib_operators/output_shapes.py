"""Shapes of what operators write that stay, by the shapes of what they read: onnx does not know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_graphsurgeon as gs

from passes.graph.tensors import Dim, operand, shape_of
from passes.model.contrib_operators.call import MALFORMED

#: the shapes of the outputs, all of the element type of input 0; fewer where they are not known
OutputShapes = Callable[[gs.Node], Sequence[Sequence[Dim]]]


def _of_input(node: gs.Node) -> Sequence[Sequence[Dim]]:
    shape = shape_of(node.inputs[0])
    return [] if shape is None else [shape]


def _product(node: gs.Node) -> Sequence[Sequence[Dim]]:
    return [[*shape[:-1], int(node.attrs["N"])] for shape in _of_input(node)]


def _grouped_attention(node: gs.Node) -> Sequence[Sequence[Dim]]:
    """The result, and the keys and values of all tokens."""
    query, heads, pairs = shape_of(node.inputs[0]), int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    if query is None or not isinstance(query[2], int):
        return []
    parts = heads if operand(node, 1) is not None else heads + 2 * pairs  # all of them may be in one tensor
    size = query[2] // parts
    present: list[Dim] = [query[0], pairs, None, size]
    return [[*query[:2], heads * size], present, present]


#: by the operator in ONNX Runtime's domain
OUTPUT_SHAPES: Mapping[str, OutputShapes] = {
    "GroupQueryAttention": _grouped_attention,
    "MatMulNBits": _product,
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
