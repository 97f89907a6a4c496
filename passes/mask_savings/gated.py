"""A model whose channels are multiplied with masks that are graph inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from passes.mask_savings.prunable_filters import Filters
from passes.model.set_nodes import set_nodes

#: how names of places begin that are masked to be pruned, and those of the nodes that mask them
PLACE = "maskc_filters_"


def gated(model: onnx.ModelProto, places: Mapping[str, Filters]) -> onnx.ModelProto:
    """A copy of the model in which each place is multiplied by a new graph input, of shape [channels]."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    masking: dict[str, list[onnx.NodeProto]] = {}
    renamed: dict[str, str] = {}
    for name, place in places.items():
        shape = np.array([-1] + [1] * (place.rank - 1 - place.axis), np.int64)
        graph.initializer.append(numpy_helper.from_array(shape, f"{name}/shape"))
        source = renamed.get(place.tensor, place.tensor)
        renamed[place.tensor] = f"{name}/masked"
        masking.setdefault(place.tensor, []).extend(
            [
                helper.make_node("Reshape", [name, f"{name}/shape"], [f"{name}/column"]),
                helper.make_node("Mul", [source, f"{name}/column"], [f"{name}/masked"], f"{name}/masked"),
            ]
        )
        kind = helper.np_dtype_to_tensor_dtype(place.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, [len(place.norm)]))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        nodes += [node, *(added for name in node.output for added in masking.get(name, ()))]
    set_nodes(graph, nodes)
    return result
