"""Values put among channels that are dequantised, which OpenVINO (2026.4) takes for one more scale among theirs.

It ends the process at a Gather of such a Pad: a Gather of what is there, times a mask, is the same. And it writes the
longer scales and zero points over those of all nodes that have them.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.tensors import along, is_constant, numpy_dtype, shape_of, values_of
from passes.ops import rules
from passes.ops.pad import Pad, picked_of_padded
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
        found = picked_of_padded(node) if isinstance(rules(pad), Pad) and _is_dequantised(pad.inputs[0]) else None
        if found is None:
            continue
        axis, index, mask = found
        picked = editor.gather(pad.inputs[0], axis, index, f"{node.outputs[0].name}_picked", before=node)
        there = mask.astype(numpy_dtype(node.outputs[0])).reshape(along(axis, rank))
        node.op, node.attrs, node.inputs = "Mul", {}, [picked, editor.constant("there", there)]
        if not data.outputs and all(data is not t for t in graph.outputs):
            erase(pad)
    editor.finish()


def own_steps(graph: gs.Graph) -> None:
    """Let what is padded be dequantised by a scale and a zero point that no other node has."""
    editor = GraphEditor(graph)
    for pad in [node for node in graph.nodes if isinstance(rules(node), Pad) and node.inputs[0].inputs]:
        made = pad.inputs[0].inputs[0]
        if _is_dequantised(pad.inputs[0]):
            for index in range(1, len(made.inputs)):
                step = made.inputs[index]
                if is_constant(step) and len(step.outputs) > 1:
                    made.inputs[index] = editor.constant(step.name, values_of(step))
    editor.finish()


def _is_dequantised(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and isinstance(rules(tensor.inputs[0]), Dequantize)
