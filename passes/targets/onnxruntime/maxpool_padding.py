"""Zero padding before a MaxPool, which ONNX Runtime takes for the MaxPool's own.

ONNX Runtime (1.31, fusion `Pad_Fusion`) merges a Pad of zeros that has no other reader into the pooling after it,
whose own padding counts as minus infinity: another function where a window holds negative numbers only. A shared Pad
that has lost its other readers, or an adapter, would run into this where the source does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import numpy_dtype, operand, values_of
from passes.ops import rules
from passes.ops.pad import Pad
from passes.ops.pooling import MaxPool
from passes.ops.shape import Transpose


def merged(graph: gs.Graph) -> frozenset[str]:
    """Names of the outputs of the MaxPools whose padding ONNX Runtime merges."""
    return frozenset(pool.outputs[0].name for pool, _ in _padded(graph))


def keep_apart(graph: gs.Graph, before: Collection[str]) -> None:
    """Let ONNX Runtime merge no padding but that of the MaxPools named in `before`, as in the source.

    It leaves negative zeros alone, and they are the same in a maximum. Where the value is an attribute, before opset
    11, they are merged too; the smallest number there is stands for zero then.
    """
    editor = GraphEditor(graph)
    for pool, pad in _padded(graph):
        if pool.outputs[0].name in before:
            continue
        if graph.opset < 11:
            pad.attrs["value"] = float(np.finfo(np.float32).smallest_subnormal)
        else:
            fill = editor.constant("fill", np.asarray(-0.0, numpy_dtype(pad.inputs[0])))
            pad.inputs = [*pad.inputs[:2], fill, *pad.inputs[3:]]


def _padded(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
    """Each MaxPool that a Pad of zeros alone feeds, perhaps through Transposes, and that Pad."""
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        current = node if isinstance(rules(node), MaxPool) else None
        while current is not None and not isinstance(rules(current), Pad):
            source = current.inputs[0]
            alone = len(source.outputs) == 1 and len(source.inputs) == 1 and id(source) not in outputs
            before = source.inputs[0] if alone else None
            current = before if before is not None and isinstance(rules(before), (Pad, Transpose)) else None
        if current is not None and _fills_with_zeros(current):
            yield node, current


def _fills_with_zeros(pad: gs.Node) -> bool:
    if pad.attrs.get("mode", "constant") != "constant":
        return False
    fill = operand(pad, 2)
    if fill is not None and not isinstance(fill, gs.Constant):
        return False
    value = np.asarray(pad.attrs.get("value", 0.0)) if fill is None else values_of(fill)
    return bool((value == 0).all() and not np.signbit(value).any()) and value.dtype.kind == "f"
