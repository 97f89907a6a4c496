"""Gathers of a constant that a Transpose follows, along the axis that it moves theirs to.

Adapters make the columns of constant maps so, which ONNX Runtime copies side by side. In OpenVINO (2026.4) a Transpose
takes several times as long as a Gather of single elements: ppocr-rec of open sizes, half masked, took 6.7 ms, and takes
5.8 ms without (one core of an Intel Xeon; in ONNX Runtime it takes 7.9 ms in place of 6.1).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become, erase
from passes.graph.tensors import is_constant
from passes.ops import rules
from passes.ops.shape import Transpose
from passes.ops.slice_gather import Gather


def turn_tables(graph: gs.Graph) -> None:
    """Let each Gather of single slices of a constant give what a Transpose after it makes of that."""
    editor = GraphEditor(graph)
    for node in graph.nodes:
        gather = editor.sole_producer(node.inputs[0]) if isinstance(rules(node), Transpose) else None
        if gather is None or not isinstance(rules(gather), Gather) or not is_constant(gather.inputs[0]):
            continue
        (table, rows), order = gather.inputs, node.attrs.get("perm", ())
        if len(order) != len(table.shape):  # where these are as many, the slices are picked along one axis
            continue
        turned = editor.constant(table.name, np.transpose(np.asarray(table.values), order))
        axis = [*order].index(gather.attrs.get("axis", 0) % len(table.shape))
        erase(gather)
        become(node, "Gather", [turned, rows], {"axis": axis})
    editor.finish()
