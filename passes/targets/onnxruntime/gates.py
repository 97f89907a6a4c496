"""Products with gates: one number for each channel and example, as squeeze and excitation makes them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import shape_of
from passes.ops.arithmetic import is_product

_RESIZE_WITHOUT_REGION = 13  # the opset from which Resize needs none


def gated(node: gs.Node, opset: int) -> int | None:
    """Which operand of a product of images is a gate that a Resize could bring to the places of the other one.

    None where neither is, where the places are not static, or for other types than single precision.
    """
    if opset < _RESIZE_WITHOUT_REGION or not node.outputs or not is_product(node):
        return None
    shapes = [shape_of(t) or () for t in node.inputs]
    if len(shapes) != 2 or any(len(shape) != 4 for shape in shapes) or node.outputs[0].dtype != np.float32:
        return None
    index = 0 if shapes[0][2:] == (1, 1) else 1
    gate, other = shapes[index], shapes[1 - index]
    fits = gate[:2] == other[:2] and gate[2:] == (1, 1) != other[2:]
    return index if fits and all(isinstance(d, int) for d in other[2:]) else None
