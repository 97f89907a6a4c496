"""A sum of data and their product with a gate is one product: x + x · g is x · (g + 1).

Blocks that squeeze and excite beside a residual end so, and read and write all of an image once more for the sum. The
gate is one number for each channel, or for each position.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.tensors import is_float, numpy_dtype, shape_of
from passes.ops.arithmetic import is_product, is_sum


def factor_out(graph: gs.Graph) -> None:
    """Add one to each gate whose product with data is added to the data, where it is smaller than these."""
    editor = GraphEditor(graph)
    for total in graph.nodes:
        found = next(_gated(total, editor), None) if is_sum(total) else None
        if found is None:
            continue
        product, gate = found
        output = total.outputs[0]
        one = editor.constant(f"{gate.name}_one", np.ones((), numpy_dtype(gate)))
        more = editor.variable(f"{gate.name}_more", gate.dtype, gate.shape)
        editor.emit("Add", [gate, one], more, f"{gate.name}_add", before=product)
        product.inputs = [more if tensor is gate else tensor for tensor in product.inputs]
        erase(total)
        product.outputs = [output]
    editor.finish()


def _gated(total: gs.Node, editor: GraphEditor) -> Iterator[tuple[gs.Node, gs.Tensor]]:
    """The product with a gate that is added to its other factor, and nothing else reads, and the gate."""
    for data, other in (total.inputs, reversed(total.inputs)):
        product = editor.sole_producer(other)
        if product is None or not is_product(product) or not any(t is data for t in product.inputs):
            continue
        gate = next((t for t in product.inputs if t is not data), None)
        if gate is None:
            continue
        shape, whole = shape_of(gate), shape_of(other)
        if shape is None or whole is None or not is_float(data):
            continue
        if len(shape) < len(whole) or any(dim == 1 != along for dim, along in zip(shape, whole, strict=True)):
            yield product, gate
