"""Values put among channels that are dequantised, which OpenVINO (2026.4) takes for one more scale among theirs.

It ends the process at a Gather of such a Pad: a Gather of what is there, times a mask, is the same. And it writes the
longer scales and zero points over those of all nodes that have them.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.tensors import along, int_list, is_constant, numpy_dtype, operand, shape_of, size_of, values_of
from passes.ops import rules
from passes.ops.pad import Pad, fill_of
from passes.ops.quantization import Dequantize
from passes.ops.slice_gather import Gather


def mask_gathers(graph: gs.Graph) -> None:
    """Let Gathers of padded steps read the steps, and multiply what they made of the padding by zero."""
    editor = GraphEditor(graph)
    for node in list(graph.nodes):
        rank = len(shape_of(node.outputs[0]) or ())
        if not rank or not isinstance(rules(node), Gather) or not node.inputs[0].inputs:
            continue
        data, pad = node.inputs[0], node.inputs[0].inputs[0]
        if not isinstance(rules(pad), Pad):
            continue
        axis, index = int(node.attrs.get("axis", 0)) % rank, node.inputs[1]
        channels = size_of(pad.inputs[0], axis)
        if channels and is_constant(index) and len(index.shape) == 1 and _appends_zeros(pad, axis, rank):
            at, total = values_of(index), size_of(data, axis) or 0
            at = np.where(at < 0, at + total, at)
            mask = (at < channels).astype(numpy_dtype(node.outputs[0])).reshape(along(axis, rank))
            there = np.where(at < channels, at, 0)
            picked = editor.gather(pad.inputs[0], axis, there, f"{node.outputs[0].name}_picked", before=node)
            node.op, node.attrs, node.inputs = "Mul", {}, [picked, editor.constant("there", mask)]
            if not data.outputs and all(data is not t for t in graph.outputs):
                erase(pad)
    editor.finish()


def own_steps(graph: gs.Graph) -> None:
    """Let what is padded be dequantised by a scale and a zero point that no other node has."""
    editor = GraphEditor(graph)
    for pad in [node for node in graph.nodes if isinstance(rules(node), Pad) and node.inputs[0].inputs]:
        made = pad.inputs[0].inputs[0]
        if isinstance(rules(made), Dequantize):
            for index in range(1, len(made.inputs)):
                step = made.inputs[index]
                if is_constant(step) and len(step.outputs) > 1:
                    made.inputs[index] = editor.constant(step.name, values_of(step))
    editor.finish()


def _appends_zeros(pad: gs.Node, axis: int, rank: int) -> bool:
    """Whether it puts zeros behind dequantised data along this axis alone."""
    made = pad.inputs[0].inputs[0] if pad.inputs[0].inputs else None
    fill, ends = fill_of(pad), int_list(operand(pad, 1))
    if made is None or not isinstance(rules(made), Dequantize) or fill is None or fill.any():
        return False
    if ends is None or len(ends) != 2 * rank or operand(pad, 3) is not None:
        return False
    return [i for i, n in enumerate(ends) if n] == [rank + axis]
