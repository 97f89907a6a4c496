"""Attention as products and a softmax, with projections, masks and caches as ONNX Runtime has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.graph.tensors import shape_of
from passes.model.contrib_operators.call import Call
from passes.model.contrib_operators.quantized import scaled_product

# The opset from which axes of Unsqueeze and sizes of Split are inputs.
_OPSET = 13


def attention(call: Call) -> Sequence[gs.Tensor]:
    """Queries, keys and values of one product, then attention."""
    x, weights = call.node.inputs[:2]
    projected, bias = call.op("MatMul", x, weights), call.given(2)
    projected = projected if bias is None else call.op("Add", projected, bias)
    call.needs(call.given(6) is None)
    return _self_attention(call, projected, call.given(3), call.given(4), call.given(5))


def quantized_attention(call: Call) -> Sequence[gs.Tensor]:
    """The same with a product of integers."""
    x, weights, bias, x_scale, scale = call.node.inputs[:5]
    projected = scaled_product(call, (x, x_scale, call.given(6)), (weights, scale, call.given(7)), bias)
    return _self_attention(call, projected, call.given(5), call.given(8), None)


def _self_attention(
    call: Call, projected: gs.Tensor, mask: gs.Tensor | None, past: gs.Tensor | None, added: gs.Tensor | None
) -> Sequence[gs.Tensor]:
    """Attention among the tokens of one tensor [batch, tokens, queries + keys + values].

    past: keys and values of tokens before [2, batch, heads, tokens, channels]. added: to the scores.
    """
    heads, width = int(call.attrs["num_heads"]), call.size(projected, 2)
    sizes = [int(n) for n in call.attrs.get("qkv_hidden_sizes", [width // 3] * 3)]
    call.needs(call.opset >= _OPSET and not call.attrs.get("do_rotary", 0))
    call.needs(not call.attrs.get("past_present_share_buffer", 0) and sizes[0] == sizes[1])
    q, k, v = (
        _heads(call, part, heads, size // heads)
        for part, size in zip(call.several("Split", projected, call.ints(*sizes), outputs=3, axis=2), sizes, strict=True)
    )
    if past is not None:
        k, v = (
            call.op("Concat", call.op("Gather", past, call.scalar(index), axis=0), each, axis=2)
            for index, each in enumerate((k, v))
        )
    bias = _mask(call, mask, q)
    causal = _causal(call, q, k) if call.attrs.get("unidirectional", 0) else None
    y = attend(call, q, k, v, sizes[0] // heads, [each for each in (bias, causal, added) if each is not None])
    result = _merged(call, y, sizes[2])
    if not call.wanted(1):
        return [result]
    return [result, call.op("Concat", *(call.op("Unsqueeze", each, call.ints(0)) for each in (k, v)), axis=0)]


def attend(call: Call, q: gs.Tensor, k: gs.Tensor, v: gs.Tensor, size: int, added: Sequence[gs.Tensor]) -> gs.Tensor:
    """softmax(scale · Q Kᵀ + what is added) V, of heads of this size."""
    scale = float(call.attrs.get("scale", 0.0)) or float(size) ** -0.5
    scores = call.op("MatMul", q, call.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = call.op("Mul", scores, call.number(scale, q))
    for each in added:
        scores = call.op("Add", scores, each)
    return call.op("MatMul", call.op("Softmax", scores, axis=-1), v)


def _heads(call: Call, x: gs.Tensor, heads: int, size: int) -> gs.Tensor:
    """[batch, tokens, heads · size] → [batch, heads, tokens, size]."""
    return call.op("Transpose", call.op("Reshape", x, call.ints(0, 0, heads, size)), perm=[0, 2, 1, 3])


def _merged(call: Call, y: gs.Tensor, width: int) -> gs.Tensor:
    """[batch, heads, tokens, size] → [batch, tokens, width]."""
    return call.op("Reshape", call.op("Transpose", y, perm=[0, 2, 1, 3]), call.ints(0, 0, width))


def _mask(call: Call, mask: gs.Tensor | None, q: gs.Tensor) -> gs.Tensor | None:
    """What is added where the mask, [batch, keys] or [batch, queries, keys], is 0 and not 1."""
    if mask is None:
        return None
    call.needs(call.rank(mask) in (2, 3) and mask.dtype == np.int32)
    axes = call.ints(1, 2) if call.rank(mask) == 2 else call.ints(1)
    kept = call.op("Cast", call.op("Unsqueeze", mask, axes), to=onnx.helper.np_dtype_to_tensor_dtype(q.dtype))
    filtered = float(call.attrs.get("mask_filter_value", -10000.0))
    return call.op("Mul", call.op("Sub", call.number(1.0, q), kept), call.number(filtered, q))


def _causal(call: Call, q: gs.Tensor, k: gs.Tensor) -> gs.Tensor:
    """What is added to the scores of keys after the query; the queries are of the last tokens."""
    queries, keys = (call.op("Gather", call.op("Shape", x), call.scalar(2), axis=0) for x in (q, k))
    zero, one = call.scalar(0), call.scalar(1)
    places = call.op("Range", call.op("Sub", keys, queries), keys, one)
    after = call.op("Less", call.op("Unsqueeze", places, call.ints(1)), call.op("Range", zero, keys, one))
    return call.op("Where", after, call.number(np.finfo(np.dtype(q.dtype)).min, q), call.number(0.0, q))
