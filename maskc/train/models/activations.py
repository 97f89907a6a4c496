"""Classification of Keras's activations: elementwise or across channels."""

from __future__ import annotations

import re
from typing import Any

import keras
from keras import layers

#: they share a scale among channels, or change their number, or are none
_NOT_BY_ELEMENT = {"softmax", "log_softmax", "sparsemax", "glu", "linear"}
_ACTIVATIONS = {name for name in dir(keras.activations) if name.islower()} - _NOT_BY_ELEMENT

ACTIVATION_LAYERS = (layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)


def by_element(function: Any) -> bool:
    """Whether an activation function, or None, works on each element by itself, as far as is known."""
    return function is None or getattr(function, "__name__", "custom") in {*_ACTIVATIONS, "linear"}


def activates(operation: Any) -> bool:
    """Whether what comes out of a layer or operation comes out of an activation function of each element."""
    function = getattr(operation, "activation", None)
    if function is not None:
        return getattr(function, "__name__", "custom") not in _NOT_BY_ELEMENT
    return is_operation(operation) or isinstance(operation, ACTIVATION_LAYERS)


def is_operation(operation: Any) -> bool:
    """Whether it is an operation of `keras.ops` that is an activation function of each element."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(operation).__name__).lower()
    return name in _ACTIVATIONS


def of_every_rank(*names: str) -> tuple[Any, ...]:
    """Keras's layers of these names, which have the number of axes in them."""
    found = (getattr(layers, name.format(rank), None) for name in names for rank in (1, 2, 3))
    return tuple(layer for layer in found if layer is not None)
