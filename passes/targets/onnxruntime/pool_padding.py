"""Zero padding before pooling, which ONNX Runtime takes for the padding of the pooling itself.

ONNX Runtime (1.31, fusion `Pad_Fusion`) merges a Pad of zeros that has no other reader into the pooling after it. It
then refuses to load the file if the padding is not smaller than the kernel; and that of a MaxPool counts as minus
infinity, which is another function where a window holds negative numbers only. A shared Pad that has lost its other
readers, or an adapter, would run into this where the source does not. With `ceil_mode` a window that begins in the
padding is lost, and the file does not run where sizes were computed as ONNX has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import int_list, numpy_dtype, operand
from passes.ops import rules
from passes.ops.pad import Pad, fill_of
from passes.ops.pooling import AveragePool, MaxPool
from passes.ops.shape import Transpose


def merged(graph: gs.Graph) -> frozenset[str]:
    """Names of the outputs of the MaxPools whose padding ONNX Runtime merges, and loads and runs the file."""
    return frozenset(pool.outputs[0].name for pool, pad in _merged(graph) if not _fails(pool, pad))


def keep_apart(graph: gs.Graph, before: Collection[str]) -> None:
    """Let ONNX Runtime merge no padding but that of the MaxPools named in `before`, as in the source.

    It leaves negative zeros alone, and they are the same in a maximum or a sum. Where the value is an attribute, before
    opset 11, they are merged too; the smallest number there is stands for zero then.
    """
    editor = GraphEditor(graph)
    for pool, pad in list(_merged(graph)):
        if pool.outputs[0].name in before:
            continue
        if graph.opset < 11:
            pad.attrs["value"] = float(np.finfo(np.float32).smallest_subnormal)
        else:
            fill = editor.constant("fill", np.asarray(-0.0, numpy_dtype(pad.inputs[0])))
            pad.inputs = [*pad.inputs[:2], fill, *pad.inputs[3:]]


def _merged(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
    """Each pooling that a Pad of zeros alone feeds, perhaps through Transposes, and that Pad, where it matters."""
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        current = node if isinstance(rules(node), (MaxPool, AveragePool)) else None
        while current is not None and not isinstance(rules(current), Pad):
            source = current.inputs[0]
            alone = len(source.outputs) == 1 and len(source.inputs) == 1 and id(source) not in outputs
            before = source.inputs[0] if alone else None
            current = before if before is not None and isinstance(rules(before), (Pad, Transpose)) else None
        fill = None if current is None else fill_of(current)
        if current is None or fill is None or fill.any() or np.signbit(fill).any() or fill.dtype.kind != "f":
            continue
        if isinstance(rules(node), MaxPool) or _fails(node, current):
            yield node, current


def _fails(pool: gs.Node, pad: gs.Node) -> bool:
    """Whether the padding of both may not be smaller than the kernel, or hold all that a last window reads."""
    kernel = pool.attrs["kernel_shape"]
    steps = pool.attrs.get("strides") if pool.attrs.get("ceil_mode") else None
    amounts = pad.attrs.get("pads") or int_list(operand(pad, 1)) or [0]
    most = max(amounts) + max(pool.attrs.get("pads", [0]))
    return bool(most > min(size - step for size, step in zip(kernel, steps or [1] * len(kernel), strict=True)))
