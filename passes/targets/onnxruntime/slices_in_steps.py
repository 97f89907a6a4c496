"""Gathers of neighbours, or of rows or columns in regular steps, as Slices.

Along the last axis ONNX Runtime (1.31) takes several times as long in a Gather, and after convolutions OpenVINO
(2026.4) leaves its channel blocks for one.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import shape_of
from passes.ops import rules
from passes.ops.slice_gather import Gather

_WITH_STEPS = 10  # the opset


def slice_in_steps(graph: gs.Graph) -> None:
    """Let each Gather of neighbours, or of several rows or columns of an image in one step, forwards, be a Slice."""
    editor = GraphEditor(graph)
    for node in graph.nodes if graph.opset >= _WITH_STEPS else ():
        op, rank = rules(node), len(shape_of(node.inputs[0]) or ()) if node.inputs else 0
        picked = op.picked(node) if isinstance(op, Gather) else None
        if picked is None or len(picked[1]) < 2:
            continue
        axis, index = picked
        step = int(index[1] - index[0])
        if (step == 1 or (step > 0 and rank > 3 and axis > 1)) and (np.diff(index) == step).all():
            bounds = {"starts": [int(index[0])], "ends": [int(index[-1]) + 1], "axes": [axis], "steps": [step]}
            become(node, "Slice", *editor.form("Slice", node.inputs[:1], bounds))
    editor.finish()
