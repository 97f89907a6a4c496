"""Elements picked or written at indices that are the same for all slices are whole pieces.

PyTorch repeats the indices of `gather` and `scatter_add` along the channels. Channels that are removed there would have
to be the same for all that reads these indices.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import shape_of
from passes.ops import rules
from passes.ops.base import axis_attribute
from passes.ops.gather_scatter import GatherElements, ScatterElements
from passes.ops.shape import Expand

_BATCHES = 12  # the opset from which GatherND has batches


def move_pieces(graph: gs.Graph) -> None:
    """Write GatherElements and ScatterElements at indices repeated along all later axes as GatherND and ScatterND."""
    editor = GraphEditor(graph)
    for node in graph.nodes if graph.opset >= _BATCHES else ():
        picks = isinstance(rules(node), GatherElements)
        if picks or isinstance(rules(node), ScatterElements):
            tuples = _tuples(node, editor)
            if tuples is not None and (picks or axis_attribute(node) == 0):
                attrs = {"batch_dims": axis_attribute(node)} if picks else node.attrs.copy()
                attrs.pop("axis", None)
                become(node, "GatherND" if picks else "ScatterND", [node.inputs[0], tuples, *node.inputs[2:]], attrs)
    editor.finish()


def _tuples(node: gs.Node, editor: GraphEditor) -> gs.Tensor | None:
    """The indices before they were repeated, with a last axis of size 1; None where that is not what they are."""
    axis, makers = axis_attribute(node), node.inputs[1].inputs
    if not makers or not isinstance(rules(makers[0]), Expand) or node.inputs[1].dtype != np.int64:
        return None  # tuples are of no other type
    once = makers[0].inputs[0]
    data, given, repeated = (list(shape_of(t) or ()) for t in (node.inputs[0], once, node.inputs[1]))
    later = len(data) - axis - 1
    whole = data[:axis] + data[axis + 1 :] == repeated[:axis] + repeated[axis + 1 :] and None not in repeated
    if later < 1 or not whole or given != [*repeated[: axis + 1], *[1] * later]:
        return None
    if later == 1:
        return once
    shorter = editor.variable(f"{once.name}_tuples", once.dtype, given[: axis + 2])
    axes = list(range(axis + 2, len(data)))
    return editor.emit("Squeeze", [once], shorter, f"{shorter.name}_squeeze", {"axes": axes}, before=node)
