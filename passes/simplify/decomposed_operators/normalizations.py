"""Decomposed LayerNormalizations and RMSNormalizations of masked channels become operators again.

The rules of these leave channels out, with a scale or zeros for those that are not there; single steps, with constants
in the statistics, would each take their time. Without masks nothing is gained, as runtimes fuse what they load.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.expression_match import Match, X, match_at, number_of
from passes.graph.normalization_steps import BIAS, EPSILON, LAYER, NORMALIZATIONS, SCALE
from passes.graph.tensors import Array, is_standard, shape_of, values_of
from passes.ops.reduction import reduced_axes
from passes.rewriting.channel_facts import Facts

#: that brought LayerNormalization
OPSET = 17


def fuse(graph: gs.Graph, facts: Facts) -> bool:
    """Fuse those over the last axis, in single precision, of which channels are constants; whether there are any.

    Nodes that no other reads then are left. The opset may know nothing of the operator; `contrib_operators.decompose`
    writes its steps.
    """
    if not any(node.op == "Sqrt" for node in graph.nodes):
        return False
    editor, fused = GraphEditor(graph), False
    ends = [node for op in NORMALIZATIONS for node in graph.nodes if node.op == op and is_standard(node)]
    for node in ends:
        for op, expression in NORMALIZATIONS[node.op]:
            found = match_at(expression, node.outputs[0]) if node.outputs else None
            if found is not None and _is_masked(found.tensors[X], facts):
                fused |= _fused(op, found, facts, editor)
                break
    editor.finish()
    return fused


def _is_masked(data: gs.Tensor, facts: Facts) -> bool:
    rank = len(shape_of(data) or ())
    return rank > 0 and data.dtype == np.float32 and bool(facts.constant_slices(data, rank - 1).mask.any())


def _fused(op: str, found: Match, facts: Facts, editor: GraphEditor) -> bool:
    """Put the operator in place of the last of these nodes, where they are one; whether they are."""
    data, last = found.tensors[X], found.nodes[-1]
    shape, output = shape_of(data) or (), last.outputs[0]
    size = facts.size(data, len(shape) - 1)
    assert size is not None  # channels of it are known
    epsilon = number_of(found.tensors[EPSILON])
    given = (found.tensors.get(name) for name in (SCALE, BIAS))
    # decomposed again it is recognised with both of them alone
    vectors = [
        _vector(np.asarray(default, np.float32) if tensor is None else values_of(tensor), size)
        for tensor, default in zip(given, (1, 0), strict=True)
        if default or tensor is not None or (op == LAYER and editor.opset < OPSET)
    ]
    means = [node for node in found.nodes if node.op == "ReduceMean"]
    over_last = all(reduced_axes(n) == {len(shape) - 1} and n.attrs.get("keepdims", 1) for n in means)
    operands = [editor.constant(f"{output.name}_vector", vector) for vector in vectors if vector is not None]
    if epsilon is None or epsilon <= 0 or not over_last or len(operands) < len(vectors):
        return False
    erase(last)
    attrs = {"axis": -1, "epsilon": epsilon}
    editor.emit(op, [data, *operands], output, last.name, attrs, before=last)
    return True


def _vector(values: Array, size: int) -> Array | None:
    """The values for each of the channels; None if they differ along other axes."""
    if values.size not in (1, size) or (values.shape or (1,))[-1] != values.size:
        return None
    return np.broadcast_to(values.reshape(-1), (size,)).copy()
