"""Attention as products and a softmax, with projections, masks and caches as ONNX Runtime has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import numpy_dtype, shape_of
from passes.model.contrib_operators.call import Call
from passes.model.contrib_operators.quantized import scaled_product


def attention(call: Call) -> Sequence[gs.Tensor]:
    """Queries, keys and values by a weight for all of them, then attention."""
    call.needs(call.given(6) is None)
    sizes, parts = _projected(call)
    return _self_attention(call, parts, sizes, call.given(3), call.given(4), call.given(5))


def packed_attention(call: Call) -> Sequence[gs.Tensor]:
    """The same of examples without padding, by ONNX Runtime's own attention."""
    _, parts = _projected(call)
    attrs = {name: call.attrs[name] for name in ("num_heads", "scale") if name in call.attrs}
    return [call.own("PackedMultiHeadAttention", *parts, None, *map(call.given, (3, 4, 5)), **attrs)]


def _projected(call: Call) -> tuple[Sequence[int], Sequence[gs.Tensor]]:
    """How many columns queries, keys and values have, and these."""
    x, weights = call.node.inputs[:2]
    sizes, bias = _sizes(call, weights), call.given(2)
    parts = [call.op("MatMul", x, weight) for weight in _split(call, weights, sizes, 1)]
    if bias is not None:
        pairs = zip(parts, _split(call, bias, sizes, 0), strict=True)
        parts = [call.op("Add", part, each) for part, each in pairs]
    return sizes, parts


def quantized_attention(call: Call) -> Sequence[gs.Tensor]:
    """The same with a product of integers."""
    x, weights, bias, x_scale, scale = call.node.inputs[:5]
    projected = scaled_product(call, (x, x_scale, call.given(6)), (weights, scale, call.given(7)), bias)
    sizes = _sizes(call, weights)
    return _self_attention(call, _split(call, projected, sizes, 2), sizes, call.given(5), call.given(8), None)


def _sizes(call: Call, weights: gs.Tensor) -> Sequence[int]:
    """Numbers of columns for queries, keys and values."""
    return [int(n) for n in call.attrs.get("qkv_hidden_sizes", [call.size(weights, 1) // 3] * 3)]


def _split(call: Call, tensor: gs.Tensor, sizes: Sequence[int], axis: int) -> Sequence[gs.Tensor]:
    return call.several("Split", tensor, outputs=3, axis=axis, split=sizes)


def _self_attention(
    call: Call,
    parts: Sequence[gs.Tensor],
    sizes: Sequence[int],
    mask: gs.Tensor | None,
    past: gs.Tensor | None,
    added: gs.Tensor | None,
) -> Sequence[gs.Tensor]:
    """Attention of queries, keys and values [batch, tokens, size], and the keys and values of all tokens, if wanted.

    past: keys and values of tokens before [2, batch, heads, tokens, channels]. added: to the scores. Without a past the
    keys are transposed at once, unless they are kept.
    """
    call.needs(not call.attrs.get("do_rotary", 0) and not call.attrs.get("past_present_share_buffer", 0))
    before = None if past is None else [call.op("Gather", past, call.scalar(i), axis=0) for i in range(2)]
    heads = int(call.attrs["num_heads"])
    call.needs(sizes[0] == sizes[1])
    split = [call.op("Reshape", x, call.ints(0, 0, heads, n // heads)) for x, n in zip(parts, sizes, strict=True)]
    keeps = call.wanted(1) or before is not None
    perms = [0, 2, 1, 3], [0, 2, 1, 3] if keeps else [0, 2, 3, 1], [0, 2, 1, 3]
    q, k, v = (call.op("Transpose", x, perm=perm) for x, perm in zip(split, perms, strict=True))
    if before is not None:
        k, v = (call.op("Concat", *pair, axis=2) for pair in zip(before, (k, v), strict=True))
    transposed = call.op("Transpose", k, perm=[0, 1, 3, 2]) if keeps else k
    causal = _causal(call, q, transposed) if call.attrs.get("unidirectional", 0) else None
    hidden = _mask(call, mask, q, transposed)
    scale = float(call.attrs.get("scale", 0.0)) or float(sizes[0] // heads) ** -0.5
    scores = call.op("Div", call.op("MatMul", q, transposed), call.number(1 / scale, q))
    for each in (causal, hidden, added):
        scores = scores if each is None else call.op("Add", scores, each)
    y = call.op("MatMul", call.op("Softmax", scores, axis=-1), v)
    y = call.op("Reshape", call.op("Transpose", y, perm=[0, 2, 1, 3]), call.ints(0, 0, sizes[2]))
    if not call.wanted(1):
        return [y]
    return [y, call.op("Concat", *(call.op("Unsqueeze", each, axes=[0]) for each in (k, v)), axis=0)]


def _mask(call: Call, mask: gs.Tensor | None, q: gs.Tensor, k: gs.Tensor) -> gs.Tensor | None:
    """What is added where the mask, [batch, keys] or [batch, queries, keys], is not above 0.

    It may also say how many keys there are: [batch].
    """
    if mask is None:
        return None
    call.needs(call.rank(mask) in (1, 2, 3) and mask.dtype == np.int32)
    if call.rank(mask) == 1:
        call.needs((shape_of(mask) or ())[0] == (shape_of(q) or (None,))[0])  # else it says where they begin as well
        places = call.op("Range", call.scalar(0), _size(call, k, 3), call.scalar(1))
        mask = call.op("Less", call.cast(places, mask), call.op("Unsqueeze", mask, axes=[1]))
    else:
        mask = call.op("Clip", mask, call.number(0, mask), call.number(1, mask))
    for axis in (1, 2) if call.rank(mask) == 2 else (1,):
        mask = call.op("Unsqueeze", mask, axes=[axis])
    kept = call.cast(mask, q)
    filtered = float(call.attrs.get("mask_filter_value", -10000.0))
    return call.op("Mul", call.op("Sub", call.number(1.0, q), kept), call.number(filtered, q))


def _size(call: Call, x: gs.Tensor, axis: int) -> gs.Tensor:
    return call.op("Gather", call.op("Shape", x), call.scalar(axis), axis=0)


def _causal(call: Call, q: gs.Tensor, k: gs.Tensor) -> gs.Tensor:
    """What is added to the scores of keys after the query; the queries are of the last tokens."""
    queries, keys = _size(call, q, 2), _size(call, k, 3)
    zero, one = call.scalar(0), call.scalar(1)
    places = call.op("Range", call.op("Sub", keys, queries), keys, one)
    after = call.op("Less", call.op("Unsqueeze", places, axes=[1]), call.op("Range", zero, keys, one))
    return call.op("Where", after, call.number(np.finfo(numpy_dtype(q)).min, q), call.number(0.0, q))
