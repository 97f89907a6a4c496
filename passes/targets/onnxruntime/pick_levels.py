"""Channels of quantised tensors, picked before these are dequantised.

ONNX Runtime (1.31) makes integer operators of nodes that read DequantizeLinear nodes right before them. Behind a Gather
a convolution would be one of floats, and a Gather moves levels of 8 bits in a quarter of the time.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import along, is_constant, numpy_dtype, operand, rank_of, volume
from passes.ops import rules
from passes.ops.pad import Pad, picked_of_padded
from passes.ops.quantization import Dequantize
from passes.ops.slice_gather import Gather
from passes.simplify import dead_code


def pick_levels(graph: gs.Graph) -> None:
    """Let each Gather of a dequantised tensor pick its levels, those of zero for slices that a Pad appends.

    For these Where has kernels of unsigned levels.
    """
    editor, changed = GraphEditor(graph), False
    for node in graph.nodes:
        op, data = rules(node), node.inputs[0] if node.inputs else None
        if data is None or not isinstance(op, Gather) or not data.inputs:
            continue
        padded = isinstance(rules(data.inputs[0]), Pad)
        source = data.inputs[0].inputs[0] if padded else data
        steps = source.inputs[0] if source.inputs else None
        if steps is None or not isinstance(rules(steps), Dequantize) or volume(steps.inputs[1]) != 1:
            continue
        before, name = steps.inputs[0], node.outputs[0].name
        found = picked_of_padded(node) if padded else op.picked(node)
        if found is None or is_constant(before) or (padded and numpy_dtype(before) != np.uint8):
            continue
        axis, index = found[:2]
        levels = editor.gather(before, axis, index, f"{name}_levels", before=node)
        if len(found) == 3:
            zero = operand(steps, 2) or editor.constant("zero", np.zeros((), np.uint8))
            shape = along(axis, rank_of(before) or 1)
            condition = editor.constant("there", found[2].reshape(shape))
            filled = editor.variable(f"{name}_filled", np.dtype(np.uint8), levels.shape)
            levels = editor.emit("Where", [condition, levels, zero], filled, f"{name}_where", before=node)
        become(node, str(steps.op), [levels, *steps.inputs[1:]], steps.attrs)
        node.domain, changed = steps.domain, True
    editor.finish()
    if changed:
        dead_code.drop_unused(graph)
