"""Shrinking rules of attention layers: masked heads, and channels of inputs and output, are removed."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from maskc.train.keras_internals import output_projection
from maskc.train.models.masked_attention import MaskedGroupQueryAttention, MaskedMultiHeadAttention
from maskc.train.shrinking.known_channels import Mask
from maskc.train.shrinking.rules.base import Narrowed, Place, Rule, Slicing, at_least_one, known, slices
from passes.ops.convolutions.channel_groups import filled


def _heads(layer: Any, projection: Any) -> Mask:
    """Heads that the output depends on: not masked, and weighed by its projection `(heads, size, channels)`."""
    read = (np.asarray(projection.kernel) != 0).any((1, 2))
    mask = getattr(layer, "head_mask", None)
    return np.asarray(read if mask is None else read & (np.asarray(mask.mask) != 0))


def _taken(place: Place) -> list[Mask | None] | None:
    """What queries, values and, if they are given by themselves, keys are made of; None if scores are returned, too."""
    if len(place.call.outputs) != 1:
        return None
    result: list[Mask | None] = []
    call, rank = place.call, len(place.call.shapes[1][0])
    for channels, stored, shape, word in zip(call.inputs, place.stored, call.shapes[0], place.keywords, strict=True):
        if channels is None or stored is None or (word.endswith("mask") and stored.all()):
            result.append(None)  # which positions attend to which
        elif len(shape) != rank or word.endswith("mask"):
            return None
        else:
            result.append(stored | channels.nonzero)
    given = [taken is not None for taken in result]
    return result if sum(given) in (2, 3) and all(given[:2]) else None


def _weights(name: str, place: Place, taken: list[Mask | None], heads: Mask, shared: Mask) -> dict[str, Slicing]:
    """Of the projections; `heads` are those of queries, and `shared` those of keys and values."""
    operands = [mask for mask in taken if mask is not None]
    query, value, key = operands[0], operands[1], operands[-1]
    given = place.wanted
    return {
        "query/kernel": slices(query, heads, None),
        "query/bias": slices(heads, None),
        "key/kernel": slices(key, shared, None),
        "key/bias": slices(shared, None),
        "value/kernel": slices(value, shared, None),
        "value/bias": slices(shared, None),
        "attention_output/kernel": slices(heads, None, given),
        "attention_output/bias": slices(given),
        **{f"{name}_head_mask/{variable}": slices(heads) for variable in ("mask", "signal", "probe")},
    }


def _multi_head(layer: Any, place: Place) -> Narrowed | None:
    taken = _taken(place)
    if taken is None:
        return None
    heads = at_least_one(_heads(layer, output_projection(layer)))
    given = place.wanted
    config = {"num_heads": int(heads.sum()), "output_shape": (int(given.sum()),)}
    return Narrowed(taken, [given], config, _weights(layer.name, place, taken, heads, heads))


def _grouped_query(layer: Any, place: Place) -> Narrowed | None:
    """As many heads of queries for each of the keys; queries, values and what comes out have equally many channels."""
    taken = _taken(place)
    if taken is None:
        return None
    whole = np.ones(known(place.call.outputs[0]).size, bool)
    used = at_least_one(_heads(layer, output_projection(layer))).reshape(layer.num_key_value_heads, -1)
    shared: Mask = np.asarray(used.any(1))
    heads = filled(used, shared, least=1).reshape(-1)
    taken[:2] = whole, whole
    weights = _weights(layer.name, place, taken, heads, shared) | {"gate/kernel": slices(None, heads, None)}
    weights |= {"gate/bias": slices(heads, None), "attention_output/bias": slices(whole)}
    weights["attention_output/kernel"] = lambda kernel: (kernel * used.reshape(-1, 1, 1))[heads]
    config = {"num_query_heads": int(heads.sum()), "num_key_value_heads": int(shared.sum())}
    return Narrowed(taken, [whole], config, weights)


RULES: dict[type, Rule] = {
    **dict.fromkeys((layers.MultiHeadAttention, MaskedMultiHeadAttention), _multi_head),
    **dict.fromkeys((layers.GroupQueryAttention, MaskedGroupQueryAttention), _grouped_query),
}
