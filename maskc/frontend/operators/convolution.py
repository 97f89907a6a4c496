"""Convolutions."""

from __future__ import annotations

from typing import Any

from maskc.frontend.operators.registry import converts


@converts("Conv2D", "Conv3D")
def convolution(graph: Any, node: Any) -> None:
    """As tf2onnx does it, with the groups of every layout: the kernel has the input channels of one group."""
    from tf2onnx.onnx_opset.nn import ConvOp

    shape, kernel = graph.get_shape(node.input[0]), graph.get_shape(node.input[1])
    channels_last = not node.get_attr("data_format").s.decode().startswith("NC")
    channels = shape[-1 if channels_last else 1] if shape else -1
    ConvOp.version_13(graph, node)
    node.set_attr("group", channels // kernel[-2] if channels > 0 else 1)
