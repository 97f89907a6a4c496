"""The opset of a graph is raised to one that brought an operator, where every node means the same in both."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.defs import OpSchema

from passes.graph.editor import Change, GraphEditor, all_or_none
from passes.graph.subgraphs import with_bodies
from passes.graph.tensors import is_standard, shape_of

# The oldest opset to start from: before it, operators changed what they compute and kept their signature.
_OLDEST = 11

# Values of attributes that a later opset does not know any more.
_DROPPED = {("Resize", "coordinate_transformation_mode"): "tf_half_pixel_for_nn"}


def raise_opset(graph: gs.Graph, opset: int, brought: str = "") -> bool:
    """Whether the graph, its subgraphs with it, is one of this opset now, or of a later one.

    Attributes that became operands are written as these. Nothing is changed where a node would mean something else.
    brought: an operator that the opset brought, of which there are nodes already.
    """
    if graph.opset >= opset:
        return True
    if graph.opset < _OLDEST:
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
    change()
    for scope in with_bodies(graph):
        scope.opset = opset
    return True


def _means_the_same(node: gs.Node, old: int, new: int) -> bool:
    """Whether the node can stand as it is in the new opset."""
    dropped = any(node.op == op and node.attrs.get(name) == value for (op, name), value in _DROPPED.items())
    return not dropped and _is_extended(node.op, old, new, len(node.outputs))


@cache
def _is_extended(op: str, old: int, new: int, outputs: int) -> bool:
    """Whether an operator that writes so many outputs takes in the new opset what it took, and means the same by it.

    It may have gained types, attributes with a default and operands that can be left out.
    """
    if not onnx.defs.has(op, old, "") or not onnx.defs.has(op, new, ""):
        return False  # one of ONNX Runtime's own, or of none of both
    before, after = onnx.defs.get_schema(op, old, ""), onnx.defs.get_schema(op, new, "")
    if before.since_version == after.since_version:
        return True
    if after.deprecated or outputs > after.max_output or before.max_input > after.max_input:
        return False
    gained = after.attributes.keys() - before.attributes.keys()
    return (
        after.min_input <= before.min_input
        and all(_stands_in(after.attributes.get(name), was) for name, was in before.attributes.items())
        and not any(after.attributes[name].required for name in gained)
    )


def _stands_in(now: OpSchema.Attribute | None, was: OpSchema.Attribute) -> bool:
    """Whether an attribute is still there, with the same default."""
    return now is not None and now.type == was.type and now.default_value == was.default_value


def _as_operand(attribute: str) -> Callable[[gs.Node, GraphEditor], Change | None]:
    """A list of integers became the second operand."""

    def rewrite(node: gs.Node, editor: GraphEditor) -> Change | None:
        def change() -> None:
            if attribute in node.attrs:
                values = np.asarray(node.attrs.pop(attribute), np.int64)
                node.inputs.append(editor.constant(attribute, values))

        return change

    return rewrite


def _over_last_axis(node: gs.Node, editor: GraphEditor) -> Change | None:
    """Before opset 13 all axes from the given one on were normalised together: the same where that is the last."""
    rank, axis = len(shape_of(node.inputs[0]) or ()), node.attrs.get("axis", 1)
    if not rank or axis % rank != rank - 1:
        return None
    return lambda: node.attrs.update(axis=-1)


_REWRITES: dict[str, Callable[[gs.Node, GraphEditor], Change | None]] = {
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), _as_operand("axes")),
    "Split": _as_operand("split"),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), _over_last_axis),
}
