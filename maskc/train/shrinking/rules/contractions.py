"""Shrinking rules of contractions: Dense, EinsumDense, convolutions, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from maskc.train.models.activations import by_element
from maskc.train.shrinking.known_channels import Array, Mask
from maskc.train.shrinking.rules.base import Narrowed, Place, Rule, Slicing, at_least_one, known, slices, stored
from passes.ops.convolutions.channel_groups import filled


def _given(layer: Any, place: Place) -> Mask:
    """The channels that a layer with an activation gives: all, if it is one of all of them."""
    return place.wanted if by_element(layer.activation) else np.ones(place.wanted.size, bool)


def _shift(place: Place, taken: Mask, weights: Array, given: Mask) -> Array | None:
    """What constant channels that are not taken add to each output; weights: `(in, out)`."""
    channels = known(place.call.inputs[0])
    left = channels.nonzero & ~taken
    if not left.any():
        return None
    exact = channels.value[left].astype(np.float64) @ weights[left].astype(np.float64)
    return np.asarray(exact[given].astype(weights.dtype))


def _sliced(name: str, taken: Mask | None, given: Mask) -> dict[str, Slicing]:
    """Weights `(..., in, out)`, and those of low rank that `enable_lora` adds to them."""
    low_rank = {f"lora_{name}_a": slices(taken, None), f"lora_{name}_b": slices(None, given)}
    return {name: slices(taken, given), **low_rank}


def _contraction(place: Place, given: Mask, taken: Mask, sums: Array, config: dict[str, Any], biased: bool) -> Narrowed:
    shift = _shift(place, taken, sums, given)
    if shift is not None and not biased:
        config = {**config, "use_bias": True}
    return Narrowed(
        [taken],
        [given],
        config,
        {**_sliced("kernel", taken, given), "bias": slices(given)},
        {} if shift is None else {"bias": shift},
    )


def _dense(layer: Any, place: Place) -> Narrowed:
    given, taken = _given(layer, place), stored(place)
    units = {"units": int(given.sum())}
    return _contraction(place, given, taken, np.asarray(layer.kernel), units, layer.use_bias)


def _einsum_dense(layer: Any, place: Place) -> Narrowed | None:
    """Where the last letter on each side is of the weights, and not of the other side."""
    term, _, output = layer.equation.partition("->")
    data, _, weights = term.partition(",")
    before, after = data[-1], output[-1]
    several = len(weights) > 2
    if not {before, after} <= set(weights) or before in output or after in data or (several and layer.lora_enabled):
        return None
    given, taken = _given(layer, place), stored(place)
    shape = (*layer.get_config()["output_shape"][:-1], int(given.sum()))
    bias = layer.bias_axes
    if several or bias not in (None, after):  # a channel is there several times, or adds to several biases
        taken = taken | known(place.call.inputs[0]).nonzero
    sums = np.einsum(f"{weights}->{before}{after}", np.asarray(layer.kernel))
    result = _contraction(place, given, taken, sums, {"output_shape": shape}, bias is not None)
    kept = {before: taken, after: given}
    result.weights["kernel"] = slices(*map(kept.get, weights))
    if after not in (bias or after):
        del result.weights["bias"]
    if result.config.pop("use_bias", False):
        result.config["bias_axes"] = after
    return result


def _convolution(layer: Any, place: Place) -> Narrowed | None:
    if layer.groups > 1:
        return None if layer.lora_enabled else _grouped(layer, place)
    kernel = np.asarray(layer.kernel)
    given, taken = _given(layer, place), stored(place)
    if layer.padding != "valid" and any(size > 1 for size in layer.kernel_size):  # at borders they count for less
        taken = taken | known(place.call.inputs[0]).nonzero
    sums = kernel.reshape(-1, *kernel.shape[-2:]).sum(0, dtype=np.float64).astype(kernel.dtype)
    return _contraction(place, given, taken, sums, {"filters": int(given.sum())}, layer.use_bias)


def _grouped(layer: Any, place: Place) -> Narrowed:
    """As many channels in each group, on each side, as that has which needs most; groups without any go."""
    channels = known(place.call.inputs[0])
    needs: Mask = np.asarray(channels.live | channels.nonzero)
    wanted = _given(layer, place).reshape(layer.groups, -1)
    groups: Mask = np.asarray(wanted.any(1))
    given = filled(wanted, groups, least=1)
    taken = filled((needs & np.repeat(groups, needs.size // layer.groups)).reshape(layer.groups, -1), groups, least=1)

    def sliced(kernel: Array) -> Array:
        """One block of outputs for each group, over the inputs of that group, which differ among groups."""
        blocks = kernel.reshape(*kernel.shape[:-1], layer.groups, -1)
        left = [blocks[..., taken[group], group, :][..., given[group]] for group in np.flatnonzero(groups)]
        return np.concatenate(left, -1)

    config = {"filters": int(given.sum()), "groups": int(groups.sum())}
    weights = {"kernel": sliced, "bias": slices(given.reshape(-1))}
    return Narrowed([taken.reshape(-1)], [given.reshape(-1)], config, weights)


def _transposed_convolution(layer: Any, place: Place) -> Narrowed:
    given = _given(layer, place)
    taken = at_least_one(stored(place) | known(place.call.inputs[0]).nonzero)
    weights = {"kernel": slices(given, taken), "bias": slices(given)}
    return Narrowed([taken], [given], {"filters": int(given.sum())}, weights)


def _depthwise_convolution(layer: Any, place: Place) -> Narrowed:
    wanted = _given(layer, place).reshape(-1, layer.depth_multiplier)
    taken: Mask = np.asarray(wanted.any(1))
    given = np.repeat(taken, layer.depth_multiplier)
    return Narrowed([taken], [given], {}, {"kernel": slices(taken, None), "bias": slices(given)})


def _separable_convolution(layer: Any, place: Place) -> Narrowed:
    given = _given(layer, place)
    taken = stored(place) | known(place.call.inputs[0]).nonzero
    weights = {
        "depthwise_kernel": slices(taken, None),
        "pointwise_kernel": slices(np.repeat(taken, layer.depth_multiplier), given),
        "bias": slices(given),
    }
    return Narrowed([taken], [given], {"filters": int(given.sum())}, weights)


def _embedding(layer: Any, place: Place) -> Narrowed:
    del layer
    given = place.wanted
    taken = [None if c is None else np.ones(c.size, bool) for c in place.call.inputs]
    return Narrowed(taken, [given], {"output_dim": int(given.sum())}, _sliced("embeddings", None, given))


def _product(place: Place, equation: str) -> Narrowed:
    """Of tensors: channels of a letter that is last wherever it is go, from all of them."""
    term, _, output = equation.replace(" ", "").partition("->")
    terms, found = term.split(","), dict[str, Mask]()
    for index, each in enumerate(terms):
        channels, letter = known(place.call.inputs[index]), each[-1]
        if any(letter in other[:-1] for other in (*terms, output)):
            found[letter] = np.ones(channels.size, bool)
        elif letter == output[-1]:
            found[letter] = place.wanted
        else:  # summed over: a factor of zero is as good as none
            found[letter] = found.get(letter, np.ones(channels.size, bool)) & (stored(place, index) | channels.nonzero)
    given = found.get(output[-1], np.ones(place.wanted.size, bool))
    return Narrowed([at_least_one(found[each[-1]]) for each in terms], [given])


def _attention(layer: Any, place: Place) -> Narrowed | None:
    """Queries, values and keys, whose products are scores."""
    alone = len(place.call.inputs) == 3 and len(place.call.outputs) == 1  # no masks, and no scores
    return _product(place, "qa,kb,ka->qb") if layer.score_mode == "dot" and alone else None


RULES: dict[type, Rule] = {
    layers.Dense: _dense,
    layers.Attention: _attention,
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: _embedding,
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed_convolution),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise_convolution),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _separable_convolution),
}

#: operations of `keras.ops`, by the names of their classes
BY_NAME: dict[str, Rule] = {
    "Einsum": lambda operation, place: _product(place, operation.subscripts),
    "Matmul": lambda operation, place: _product(place, "...ab,...bc->...ac"),
}
