"""Zero padding before a maximum, as of `ZeroPadding2D` and `MaxPooling2D`, that ONNX Runtime is not to merge.

ONNX Runtime (1.31, fusion `Pad_Fusion`) takes a Pad of zeros for the padding of the MaxPool after it, which counts as
minus infinity: another function where a window holds negative numbers only. It leaves negative zeros alone. What is
compiled, `passes/targets/onnxruntime/pool_padding.py` keeps as its source has it, so the source is to be right here.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from maskc.frontend.graph_queries import array_of, tensor_types

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def keep_apart(model: ModelProto) -> None:
    """Let each Pad of zeros whose result, perhaps transposed, goes into a MaxPool fill with negative zeros."""
    makers = {name: node for node in model.graph.node for name in node.output}
    pools = [node for node in model.graph.node if node.op_type == "MaxPool"]
    pads = [pad for pad in (_before(pool, makers) for pool in pools) if pad is not None]
    types = tensor_types(model) if pads else {}
    stored = {tensor.name: array_of(tensor) for tensor in model.graph.initializer} if pads else {}
    for pad in pads:
        kind = types[pad.input[0]].elem_type if pad.input[0] in types else TensorProto.UNDEFINED
        fill = stored.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(())
        if kind not in _FLOATS or len(pad.input) > 3 or fill is None or fill.any():
            continue
        name = f"{pad.output[0]}/fill"
        value = np.asarray(-0.0, helper.tensor_dtype_to_np_dtype(kind))
        model.graph.initializer.append(numpy_helper.from_array(value, name))
        pad.input[:] = [*pad.input[:2], name]


def _before(pool: NodeProto, makers: dict[str, NodeProto]) -> NodeProto | None:
    """The Pad of a constant whose result a MaxPool reads."""
    node = makers.get(pool.input[0])
    while node is not None and node.op_type == "Transpose":
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Pad":
        return None
    return node if all(a.name != "mode" or a.s == b"constant" for a in node.attribute) else None
