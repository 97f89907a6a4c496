"""Products in half precision right after a Transpose, which ONNX Runtime fuses.

ONNX Runtime (1.31) has no kernel on CPUs for a product in half precision that orders the batch axes of its data too,
makes such a node all the same (fusion `MatmulTransposeFusion`) and crashes on it (`NchwcTransformer`). A mask before or
after the Transpose keeps a source from that. After the product it does no harm, and no FLOP is added.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import is_constant
from passes.ops import rules
from passes.ops.contractions.matmul import MatMul
from passes.ops.shape import Transpose
from passes.simplify import dead_code


def put_after(graph: gs.Graph) -> None:
    """Let no such Transpose stand before a product by a matrix, but after it, where it leaves the last axis alone."""
    editor, changed = GraphEditor(graph), False
    for product, transpose in _pairs(graph):
        output, data = product.outputs[0], transpose.inputs[0]
        if data.shape is None or output.shape is None:
            continue
        turned = editor.variable(f"{output.name}_turned", output.dtype, [*data.shape[:-1], output.shape[-1]])
        product.inputs[0], product.outputs = data, [turned]
        attributes = {"perm": list(transpose.attrs["perm"])}
        editor.emit("Transpose", [turned], output, f"{output.name}_order", attributes, after=product)
        changed = True
    if changed:
        editor.finish()
        dead_code.drop_unused(graph)


def _pairs(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
    """Each product in half precision by a matrix, and the Transpose before it that leaves the last axis where it is."""
    for node in graph.nodes:
        if not isinstance(rules(node), MatMul) or node.outputs[0].dtype != np.float16:
            continue
        data, weight = node.inputs
        before = data.inputs[0] if data.inputs else None
        if before is None or not isinstance(rules(before), Transpose) or not is_constant(weight):
            continue
        order = list(before.attrs.get("perm", ()))
        if len(weight.shape) == 2 and order[-1:] == [len(order) - 1] and order != sorted(order):
            yield node, before
