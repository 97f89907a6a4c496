"""HardSigmoids as a scale, a shift and a Clip: OpenVINO (2026.4) has a reference kernel for the operator only.

It reads images with channels first, so what is around it is reordered twice; the three are fused into the convolution
before them. What a contraction before it takes is a Clip already (`passes/simplify/decomposed_operators`).
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.expression_match import X, emit_expression
from passes.graph.tensors import is_standard
from passes.ops import rules, traits
from passes.ops.activations import HardSigmoid

_BOUNDS_ARE_INPUTS = 11  # the opset from which Clip has them

# Operators that are written, for each one that is not.
_MORE = 2


def decompose_hard_sigmoid(graph: gs.Graph, budget: int) -> None:
    """Write HardSigmoids as Mul, Add and Clip, as far as that comes to no more than `budget` FLOPs."""
    if graph.opset < _BOUNDS_ARE_INPUTS:
        return
    editor = GraphEditor(graph)
    for node in graph.nodes:
        op = rules(node)
        if not isinstance(op, HardSigmoid) or not is_standard(node):
            continue
        gate, output = traits.clamped_affine(node), node.outputs[0]
        budget -= _MORE * op.cost(node)[0]
        if budget < 0 or gate is None:
            break
        erase(node)
        expression = ("Clip", ("Add", ("Mul", X, gate.scale), gate.shift), 0.0, 1.0)
        emit_expression(expression, gate.data, output, editor, before=node)
    editor.finish()
