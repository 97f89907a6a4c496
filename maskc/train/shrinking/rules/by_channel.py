"""Shrinking rules of channelwise layers and operations, where output channel c reads input channel c alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from maskc.train.mask_layer import MaskLayer
from maskc.train.models.activations import by_element, of_every_rank
from maskc.train.shrinking.known_channels import Mask
from maskc.train.shrinking.rules.base import Narrowed, Place, Rule, known, slices


def _narrowed(place: Place, *variables: str) -> Narrowed:
    """The variables run over the channels, along their last axis."""
    given = place.wanted
    taken: list[Mask | None] = [  # one channel is broadcast over all
        None if channels is None else given if channels.size == given.size else np.ones(1, bool)
        for channels in place.call.inputs
    ]
    return Narrowed(taken, [given], {}, {name: slices(given) for name in variables})


def without_weights(layer: Any, place: Place) -> Narrowed | None:
    """The rule of layers and operations that have no weights, of one or of several operands."""
    del layer
    if not place.scalars:
        return None
    sizes = {known(place.call.outputs[0]).size, 1}
    return _narrowed(place) if all(c is not None and c.size in sizes for c in place.call.inputs) else None


def _along_other_axes(operation: Any, place: Place) -> Narrowed | None:
    """One that works along axes, if the channels lie along none of them; all of the output's rank or the input's."""
    rank = max(len(shapes[0]) for shapes in place.call.shapes)
    axes = np.atleast_1d(() if operation.axis is None else operation.axis)
    return without_weights(operation, place) if axes.size and (axes % rank != rank - 1).all() else None


def _pad(operation: Any, place: Place) -> Narrowed | None:
    """Of images, say; with zeros, or with what is beside."""
    widths = np.broadcast_to(operation.pad_width, (len(place.call.shapes[0][0]), 2))
    return None if widths[-1].any() or len(place.call.inputs) > 1 else without_weights(operation, place)


def _mask(layer: MaskLayer, place: Place) -> Narrowed | None:
    rank = len(place.call.shapes[0][0])
    return _narrowed(place, "mask", "signal", "probe") if layer.axis % rank == rank - 1 else None


def _batch_normalization(layer: Any, place: Place) -> Narrowed | None:
    if layer.axis not in (-1, len(place.call.shapes[0][0]) - 1):
        return None
    return _narrowed(place, "gamma", "beta", "moving_mean", "moving_variance")


def _group_normalization(layer: Any, place: Place) -> Narrowed | None:
    """Of one channel in each group, which are normalised by themselves."""
    one = layer.groups in (-1, known(place.call.inputs[0]).size)
    if not one or layer.axis not in (-1, len(place.call.shapes[0][0]) - 1):
        return None
    result = _narrowed(place, "gamma", "beta")
    result.config["groups"] = -1
    return result


def _prelu(layer: Any, place: Place) -> Narrowed | None:
    rank = len(place.call.shapes[0][0])
    return _narrowed(place) if rank - 1 in (layer.shared_axes or ()) else _narrowed(place, "alpha")


def _layer_scale(layer: Any, place: Place) -> Narrowed:
    result = _narrowed(place, layer.gamma.name)
    result.config["projection_dim"] = int(place.wanted.sum())
    return result


_POOLING = of_every_rank(
    "MaxPooling{}D",
    "AveragePooling{}D",
    "GlobalMaxPooling{}D",
    "GlobalAveragePooling{}D",
    "ZeroPadding{}D",
    "Cropping{}D",
    "UpSampling{}D",
    "SpatialDropout{}D",
)
_MERGING = (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
_ELEMENTWISE = (
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout, layers.AlphaDropout, layers.GaussianDropout),
    *(layers.GaussianNoise, layers.Identity, layers.RepeatVector),
)

RULES: dict[type, Rule] = {
    **dict.fromkeys((*_POOLING, *_MERGING, *_ELEMENTWISE), without_weights),
    layers.Activation: lambda layer, place: without_weights(layer, place) if by_element(layer.activation) else None,
    layers.Rescaling: lambda layer, place: (
        without_weights(layer, place) if np.ndim(layer.scale) == np.ndim(layer.offset) == 0 else None
    ),
    layers.PReLU: _prelu,
    layers.BatchNormalization: _batch_normalization,
    layers.GroupNormalization: _group_normalization,
    MaskLayer: _mask,
}

#: operations of `keras.ops` and layers of `keras.applications`, by their classes' names, as these are not public
BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum"), without_weights),
    **dict.fromkeys(("Negative", "Absolute", "Square", "Sqrt", "Exp", "Clip", "StochasticDepth"), without_weights),
    **dict.fromkeys(("Mean", "Max", "Min", "Sum", "Squeeze", "ExpandDims"), _along_other_axes),
    "Pad": _pad,
    "LayerScale": _layer_scale,
}
