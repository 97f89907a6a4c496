"""Conversions of grouped and transposed convolutions."""

from __future__ import annotations

from typing import Any

from maskc.frontend.tensorflow.operators.registry import constant, converts, make, replace, transposed
from maskc.frontend.tensorflow.size_formulas import Sizes
from maskc.frontend.tensorflow.tf2onnx_internals import convert_as_tf2onnx
from passes.abstract_values.polynomial import Polynomial


@converts("Conv2D", "Conv3D")
def convolution(graph: Any, node: Any) -> None:
    """As tf2onnx does it, with the groups of every layout: the kernel has the input channels of one group."""
    shape, kernel = graph.get_shape(node.input[0]), graph.get_shape(node.input[1])
    channels = shape[-1 if _channels_last(node) else 1] if shape else -1
    convert_as_tf2onnx(graph, node)
    node.set_attr("group", channels // kernel[-2] if channels > 0 else 1)


@converts("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def transposed_convolution(graph: Any, node: Any) -> None:
    """A ConvTranspose with explicit pads.

    TensorFlow is told the output's size `O` and pads so that the convolution forward has the input's size `I`:
    `max((I − 1)·stride + kernel − O, 0)` zeros with SAME, none with VALID. What the sum then lacks of `O` is
    ONNX's `output_padding`. Where `I` is only known at run time, `O − stride·I` must be a number.
    """
    operand, kernel, x = node.input[:3]
    sizes = Sizes(graph)
    last, rank = _channels_last(node), graph.get_rank(kernel) - 2
    spatial = range(1, rank + 1) if last else range(2, rank + 2)
    strides, dilations = (_spatial(node, name, spatial, rank) for name in ("strides", "dilations"))
    padding = node.get_attr_value("padding").decode()
    wanted = sizes.values(operand)
    begins, ends, extras = [], [], []
    for i, axis in enumerate(spatial):
        reach = (graph.get_shape(kernel)[i] - 1) * dilations[i] + 1
        full = sizes.dimension(x, axis) * Polynomial.of(strides[i]) + Polynomial.of(reach - strides[i])
        size = None if wanted is None else wanted[axis]
        surplus = None if size is None else (full - size).number
        if surplus is None:
            raise ValueError(f"the output of {node.name} has a size that is not a number more than stride times input")
        total = max(surplus, 0) if padding == "SAME" else 0
        begin, end = total // 2, total - total // 2
        if padding == "EXPLICIT":
            begin, end = node.get_attr_value("explicit_paddings")[2 * axis : 2 * axis + 2]
        begins.append(begin)
        ends.append(end)
        extras.append(begins[-1] + ends[-1] - surplus)
    if min(extras) < 0:
        raise ValueError(f"the output of {node.name} is smaller than its padding allows")
    _emit(graph, node, spatial, strides=strides, dilations=dilations, pads=begins + ends, output_padding=extras)


def _emit(graph: Any, node: Any, spatial: range, **attributes: list[int]) -> None:
    """The ConvTranspose between transposes to channels first and back."""
    _, kernel, x, *bias = node.input  # tf2onnx may have put a bias there
    rank = len(spatial)
    dtype = graph.get_dtype(x)
    weights = graph.get_node_by_output(kernel)
    order = [rank + 1, rank, *range(rank)]  # from spatial, out, in to in, out, spatial
    if weights.is_const():
        kernel = constant(graph, weights.get_tensor_value(as_list=False).transpose(order), graph.get_dtype(kernel))
    else:
        kernel = transposed(graph, kernel, order)
    shape = graph.get_shape(node.output[0])
    if _channels_last(node):
        first = [0, rank + 1, *spatial]
        x, shape = transposed(graph, x, first), [shape[i] for i in first] if shape else None
    y = make(graph, "ConvTranspose", [x, kernel, *bias], shape, dtype, **attributes)
    replace(graph, node, transposed(graph, y, [0, *range(2, rank + 2), 1]) if _channels_last(node) else y)


def _channels_last(node: Any) -> bool:
    return not node.get_attr_value("data_format").decode().startswith("NC")


def _spatial(node: Any, name: str, spatial: range, rank: int) -> list[int]:
    values = node.get_attr_value(name)
    return [values[axis] for axis in spatial] if values else [1] * rank
