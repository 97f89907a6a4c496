"""Weights that are stored in fewer bits than they are computed in: what a Cast made of them is not stored instead."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, replace_tensor
from passes.graph.tensors import element_of, is_constant, is_float
from passes.weights import streaming
from passes.weights.quantized import Quantized
from passes.weights.streaming import element_bits, lazy

_LEAST = 4096  # elements: what smaller weights would save is little beside the nodes

# Types that every runtime casts from; of fewer bits than 8 are only quantised weights, which stay so anyway.
_NUMBERS = frozenset(
    value
    for name, value in onnx.TensorProto.DataType.items()
    if name in ("FLOAT", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT16", "UINT16")
    or name.startswith(("FLOAT8E4M3", "FLOAT8E5M2"))
)


def narrowed(graph: gs.Graph, source: onnx.ModelProto) -> None:
    """Store large floating-point weights in the types of fewer bits that the source stores weights in, with a Cast.

    Only weights all of whose elements are the same bits again after the Cast. So nothing changes but the file, which
    would otherwise grow with each Cast that was folded into its operand.
    """
    stored = [t for t in source.graph.initializer if prod(t.dims) >= _LEAST]
    kinds = {t.data_type for t in stored if t.data_type in _NUMBERS}
    editor, outputs = GraphEditor(graph), {id(t) for t in graph.outputs}
    weights = {id(t): t for n in graph.nodes for t in n.inputs if is_constant(t) and not isinstance(t, Quantized)}
    for weight in weights.values():
        if (
            isinstance(weight.dtype, int)
            or not is_float(weight)
            or id(weight) in outputs
            or prod(weight.shape) < _LEAST
        ):
            continue
        wide = np.dtype(weight.dtype)
        for kind in sorted(kinds, key=element_bits):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
            if element_bits(kind) >= element_bits(element_of(wide)) or not _holds(weight, dtype):
                continue
            values = lazy(weight)
            fewer = np.asarray(weight.values).astype(dtype) if values is None else streaming.narrowed(values, dtype)
            kept = editor.constant(f"{weight.name}_stored", fewer)
            wider = editor.variable(f"{weight.name}_cast", wide, list(weight.shape))
            replace_tensor(weight, wider)
            attrs = {"to": element_of(wide)}
            editor.emit("Cast", [kept], wider, f"{weight.name}_cast", attrs, after=editor.start)
            break
    editor.finish()


def _holds(weight: gs.Constant, dtype: np.dtype[np.generic]) -> bool:
    """Whether all elements of a weight are of the other type as well."""
    values = lazy(weight)
    blocks = [np.asarray(weight.values)] if values is None else values.blocks()
    with np.errstate(all="ignore"):
        return all(block.astype(dtype).astype(block.dtype).tobytes() == block.tobytes() for block in blocks)
