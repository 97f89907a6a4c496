"""Embeddings of tokens, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.model.contrib_operators.call import Call, NotCoveredError
from passes.model.contrib_operators.normalization import layer_after_sum


def embed_layer_normalization(call: Call) -> Sequence[gs.Tensor]:
    """LayerNormalization of the sum of the embeddings of words, positions and segments; the sum is the last output.

    The second one counts the tokens of each example that the mask keeps.
    """
    ids, segments, words, positions, kinds = (call.given(index) for index in range(5))
    scale, bias, mask, places = (call.given(index) for index in range(5, 9))
    if ids is None or words is None or positions is None or scale is None:
        raise NotCoveredError(call.node.op)
    call.needs(not call.attrs.get("mask_index_type", 0))
    total = call.op("Gather", words, ids, axis=0)
    if places is None:
        count = call.op("Gather", call.op("Shape", ids), call.scalar(1), axis=0)
        places = call.op("Range", call.scalar(0), count, call.scalar(1))
    total = call.op("Add", total, call.op("Gather", positions, places, axis=0))
    if segments is not None and kinds is not None:
        total = call.op("Add", total, call.op("Gather", kinds, segments, axis=0))
    y = layer_after_sum(call, total, scale, bias)
    if not call.wanted(1):
        return [y, y, total]
    if mask is None:  # the kernel counts none
        mask = call.op("Mul", ids, call.number(0, ids))
    call.needs(mask.dtype == np.int32)
    return [y, call.op("ReduceSum", mask, axes=[1], keepdims=0), total]
