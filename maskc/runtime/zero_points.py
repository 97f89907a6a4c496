"""Zero points of 0 where a model leaves them out, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from maskc.frontend.graph_queries import all_graphs, copied, defined, fresh


def with_zero_points(model: ModelProto) -> ModelProto:
    """The model in which int8 weights with a scale for each channel have zero points: itself, if they have.

    Where ONNX Runtime makes such weights unsigned, for exact products without VNNI, it gives all channels one zero
    point, and refuses the model then (1.31).
    """
    if not any(any(_without(graph)) for graph in all_graphs(model.graph)):
        return model
    result = copied(model)
    for graph in all_graphs(result.graph):
        for node, size in list(_without(graph)):
            name = fresh(f"{node.output[0]}_zero_point", defined(graph))
            graph.initializer.append(numpy_helper.from_array(np.zeros(size, np.int8), name))
            node.input[:] = [*node.input[:2], name]
    return result


def _without(graph: GraphProto) -> Iterator[tuple[NodeProto, int]]:
    """The nodes that dequantise such weights without a zero point, with the number of channels."""
    stored: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and not any(node.input[2:]) and {*node.input[:2]} <= stored.keys():
            weight, scale = (stored[name] for name in node.input[:2])
            if weight.data_type == TensorProto.INT8 and len(scale.dims) == 1:
                yield node, scale.dims[0]
