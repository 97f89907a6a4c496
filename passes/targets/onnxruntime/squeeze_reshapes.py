"""Reshapes of tensors with an open size, such as the batch, in forms that ONNX Runtime understands.

Where all sizes are known ONNX Runtime (1.31) merges Reshapes that follow each other, and moves Transposes past those
that only add, drop or move axes of size 1 until they meet others and both vanish. Where a size is open it merges none,
and does the latter with a Squeeze, an Unsqueeze or a Transpose only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import Dim, is_constant, shape_of
from passes.ops import rules
from passes.ops.shape import Regrouping, Squeeze, Transpose, sizes_told
from passes.simplify import dead_code


def squeeze_reshapes(graph: gs.Graph) -> None:
    """Let nodes that give a tensor with an open size another shape do so in the form that ONNX Runtime understands.

    What adds, drops or moves axes of size 1 together with the nodes before it does so alone, and so does a Reshape.
    """
    editor, changed = GraphEditor(graph), False
    own = {id(node) for node in graph.nodes}  # a subgraph reads what nodes around it write
    for node in graph.nodes:
        after = shape_of(node.outputs[0]) if _gives_shape(node) else None
        if after is None or all(isinstance(dim, int) for dim in after) or 0 in after:
            continue
        sources = [node.inputs[0]]
        while sources[-1].inputs and id(sources[-1].inputs[0]) in own and _gives_shape(sources[-1].inputs[0]):
            sources.append(sources[-1].inputs[0].inputs[0])
        changed |= any(_write(node, source, after, editor) for source in reversed(sources))
    if changed:
        editor.finish()
        dead_code.drop_unused(graph)


def _gives_shape(node: gs.Node) -> bool:
    return isinstance(rules(node), (Regrouping, Squeeze)) and not is_constant(node.inputs[0])


def _write(node: gs.Node, source: gs.Tensor, after: Sequence[Dim], editor: GraphEditor) -> bool:
    """Let the node bring `source` to this shape, if it can be said; whether it did not do so already."""
    before = shape_of(source) or ()
    for op, name, axes in (
        ("Squeeze", "axes", _dropped(before, after)),
        ("Unsqueeze", "axes", _dropped(after, before)),
        ("Transpose", "perm", _moved(before, after) if _meets_transpose(node, source) else None),
    ):
        if not axes or (node.op == op and node.inputs[0] is source):
            continue
        become(node, op, *editor.form(op, [source], {name: axes}))
        return True
    sizes = sizes_told(before, after)
    if not isinstance(rules(node), Regrouping) or node.inputs[0] is source or sizes is None:
        return False
    become(node, "Reshape", [source, editor.ints("sizes", sizes)])
    return True


def _meets_transpose(node: gs.Node, source: gs.Tensor) -> bool:
    """Whether a Transpose in place of the node could vanish with another: by itself it is slower than a Reshape.

    In half precision ONNX Runtime has no kernel for some products that it makes with a Transpose.
    """
    around = [*source.inputs, *node.outputs[0].outputs]
    return source.dtype != np.float16 and any(isinstance(rules(other), Transpose) for other in around)


def _dropped(longer: Sequence[Dim], shorter: Sequence[Dim]) -> list[int] | None:
    """The axes of size 1 without which the one shape is the other one, None if there are none such."""
    axes, rest = [], list(shorter)
    for axis, dim in enumerate(longer):
        if rest and dim is not None and dim == rest[0]:
            del rest[0]
        elif dim == 1:
            axes.append(axis)
        else:
            return None
    return axes if not rest else None


def _moved(before: Sequence[Dim], after: Sequence[Dim]) -> list[int] | None:
    """The order that gives the one shape the other by moving axes of size 1, None where there is none."""
    old, new = _ones_last(before), _ones_last(after)
    same = [before[a] == after[b] and before[a] is not None for a, b in zip(old, new, strict=False)]
    if len(before) != len(after) or before == after or not all(same):
        return None
    return [a for _, a in sorted(zip(new, old, strict=True))]


def _ones_last(shape: Sequence[Dim]) -> list[int]:
    """The axes in order, but those of size 1 after all others."""
    return [axis for one in (False, True) for axis, dim in enumerate(shape) if (dim == 1) is one]
