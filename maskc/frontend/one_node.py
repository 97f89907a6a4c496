"""Models of one node, as runtimes are given to time a layer or to see what an operator does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def one_node(node: NodeProto, shape: Sequence[int], constants: Mapping[str, NDArray[Any]], opset: int) -> ModelProto:
    """A model of a node that makes float32 `y` of float32 `x`, of this shape, and of constants by name."""
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
