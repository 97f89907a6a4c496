"""The graph of a model with a shape on every tensor that can be given one."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError
from passes.graph.tensors import describe
from passes.model import default_inputs
from passes.model.exporting import outlined
from passes.model.importing import imported, inlined
from passes.model.shape_inference import INFERRED, annotate, check, check_declared, inferred, unfinished
from passes.ops import rules
from passes.simplify.constant_folding import fold_constants, settle_operands
from passes.simplify.inline_constant_if import inline_taken_branches


def shaped(model: onnx.ModelProto, graph: gs.Graph | None = None, keep: Collection[str] = ()) -> gs.Graph:
    """A graph of its own, constants folded; `model` is left as it is, and lends its weights.

    graph: that of the model, where it is at hand, which is then changed and returned. keep: initializers whose readers
    are not folded.

    Computed shape operands hide sizes until they are folded, so shapes are inferred again after that. Raises
    GraphError when shapes contradict each other, or what the model declares.
    """
    model = inlined(default_inputs.opened(model))
    graph = imported(model) if graph is None else graph
    outline = model
    found = inferred(outline)
    annotate(graph.nodes, found.model.graph, graph.inputs)
    for _ in range(8):  # what is folded gives sizes, and sizes give more to fold
        folded, taken, settled = fold_constants(graph, keep), inline_taken_branches(graph), settle_operands(graph)
        if not folded and not taken and not settled:
            break
        part = unfinished(graph.nodes) if found.sound and not taken and not settled else graph.nodes
        if not part:
            break
        outline = outlined(part, model, INFERRED)
        found = inferred(outline)
        annotate(part, found.model.graph)
    check_declared(model, graph)
    for node in graph.nodes:
        wrong = rules(node).contradiction(node)
        if wrong:
            raise GraphError(f"The shapes at node `{describe(node)}` contradict each other: {wrong}.")
    if not found.sound:
        check(outline, found.model)
    return graph
