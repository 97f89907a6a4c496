"""The graph of a model with a shape on every tensor that can be given one."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from passes.export import outlined
from passes.fold import fold_constants
from passes.shapes import INFERRED, annotate, inferred


def shaped(model: onnx.ModelProto) -> gs.Graph:
    """A graph of its own, constants folded; `model` is left as it is, and lends its weights.

    Computed shape operands hide sizes until they are folded, so shapes are inferred again after that. Raises
    GraphError when shapes contradict each other.
    """
    graph = gs.import_onnx(model)
    annotate(graph, inferred(model))
    for _ in range(8):  # what is folded gives sizes, and sizes give more to fold
        if not fold_constants(graph):
            break
        annotate(graph, inferred(outlined(graph, model, INFERRED)))
    return graph
