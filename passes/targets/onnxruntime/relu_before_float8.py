"""Relu right before a quantisation to 8-bit floats, which ONNX Runtime drops.

ONNX Runtime (1.31) takes the zero point of such numbers for the least of all (`ReluQuantFusion`), as that of uint8 is,
so what is below zero stays. A mask between the two keeps a source from that. A Max does the same as the Relu.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import is_float, numpy_dtype
from passes.ops import rules
from passes.ops.quantization import Quantize


def merged(graph: gs.Graph) -> set[str]:
    """Names of the tensors that are so quantised."""
    return {steps.outputs[0].name for steps in _behind_relu(graph)}


def keep_apart(graph: gs.Graph, known: Collection[str]) -> None:
    """Write no Relu before one, but where the source has it, too."""
    editor = GraphEditor(graph)
    for steps in _behind_relu(graph):
        relu = steps.inputs[0].inputs[0]
        if steps.outputs[0].name not in known and relu.op == "Relu":
            zero = editor.constant("zero", np.zeros((), numpy_dtype(steps.inputs[0])))
            become(relu, "Max", [relu.inputs[0], zero])
    editor.finish()


def _behind_relu(graph: gs.Graph) -> Iterator[gs.Node]:
    for node in graph.nodes:
        quantises = isinstance(rules(node), Quantize) and is_float(node.outputs[0])
        if quantises and node.inputs[0].inputs and node.inputs[0].inputs[0].op == "Relu":
            yield node
