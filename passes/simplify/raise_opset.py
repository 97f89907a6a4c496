"""The opset of a graph is raised to one that brought an operator, where every node means the same in both."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from passes.graph.editor import Change, GraphEditor, all_or_none
from passes.graph.opset_versions import OLDEST, Form, means_the_same
from passes.graph.subgraphs import with_bodies
from passes.graph.tensors import is_standard, shape_of

# The opset from which on a Split into equal parts says into how many.
_PARTS = 18

# Values of attributes that a later opset does not know any more.
_DROPPED = {("Resize", "coordinate_transformation_mode"): "tf_half_pixel_for_nn"}


def raise_opset(graph: gs.Graph, opset: int, brought: str = "") -> bool:
    """Whether the graph, its subgraphs with it, is one of this opset now, or of a later one.

    Attributes that became operands are written as these. Nothing is changed where a node would mean something else.
    brought: an operator that the opset brought, of which there are nodes already.
    """
    if graph.opset >= opset:
        return True
    if graph.opset < OLDEST:
        return False
    change = all_or_none(
        [
            _REWRITES[node.op](node, editor) if node.op in _REWRITES else None
            for scope in with_bodies(graph)
            for editor in [GraphEditor(scope)]
            for node in scope.nodes
            if is_standard(node) and node.op != brought and not _means_the_same(node, scope.opset, opset)
        ]
    )
    if change is None:
        return False
    for scope in with_bodies(graph):
        scope.opset = opset
    change()
    return True


def _means_the_same(node: gs.Node, old: int, new: int) -> bool:
    """Whether the node can stand as it is in the new opset."""
    dropped = any(node.op == op and node.attrs.get(name) == value for (op, name), value in _DROPPED.items())
    form = Form(node.op, frozenset(node.attrs), len(node.inputs), len(node.outputs))
    return not dropped and means_the_same(form, old, new)


def _as_operands(node: gs.Node, editor: GraphEditor) -> Change:
    """Lists of integers became operands."""

    def change() -> None:
        node.inputs, node.attrs = editor.form(node.op, node.inputs, node.attrs)

    return change


def _in_parts(node: gs.Node, editor: GraphEditor) -> Change:
    as_operands = _as_operands(node, editor)

    def change() -> None:
        as_operands()
        if editor.opset >= _PARTS and len(node.inputs) == 1:
            node.attrs["num_outputs"] = len(node.outputs)

    return change


def _over_last_axis(node: gs.Node, editor: GraphEditor) -> Change | None:
    """Before opset 13 all axes from the given one on were normalised together: the same where that is the last."""
    rank, axis = len(shape_of(node.inputs[0]) or ()), node.attrs.get("axis", 1)
    if not rank or axis % rank != rank - 1:
        return None
    return lambda: node.attrs.update(axis=-1)


_REWRITES: dict[str, Callable[[gs.Node, GraphEditor], Change | None]] = {
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"), _as_operands),
    **dict.fromkeys(("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"), _as_operands),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _as_operands),
    "Split": _in_parts,
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), _over_last_axis),
}
