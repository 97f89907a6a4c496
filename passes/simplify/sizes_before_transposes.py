"""Sizes of a transposed tensor, taken of the tensor before.

PyTorch asks transposed keys how many there are. The transposition for it would be kept, with channels that it reads.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import is_constant, shape_of, values_of
from passes.ops import rules
from passes.ops.shape import Shape, Transpose
from passes.ops.slice_gather import Gather


def measure_before(graph: gs.Graph) -> None:
    """Let Gathers that pick sizes of a Transpose's result pick them of what it reads."""
    editor = GraphEditor(graph)
    for node in graph.nodes:
        if not isinstance(rules(node), Shape) or node.attrs or not node.inputs[0].inputs:
            continue
        transpose, rank = node.inputs[0].inputs[0], len(shape_of(node.inputs[0]) or ())
        readers = [n for n in node.outputs[0].outputs if isinstance(rules(n), Gather) and is_constant(n.inputs[1])]
        if not rank or not readers or not isinstance(op := rules(transpose), Transpose):
            continue
        before, perm = transpose.inputs[0], np.asarray(op.perm(transpose, rank))
        sizes = editor.variable(f"{before.name}_sizes", np.dtype(np.int64), [rank])
        editor.emit("Shape", [before], sizes, f"{before.name}_shape", before=node)
        for reader in readers:
            reader.inputs = [sizes, editor.constant("axes", perm[values_of(reader.inputs[1])])]
    editor.finish()
