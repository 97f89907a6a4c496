"""Inlining of layers that apply other layers, masks among them, into the functional model."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

from maskc.train.keras_internals import functional, nodes, repeat_calls
from maskc.train.mask_layer import mask_layers
from maskc.train.models.calls import is_functional
from maskc.train.shrinking.rules.table import has_rule


def expanded(model: Any) -> Any:
    """The model with such layers replaced by functional models of the same names, of the same layers and weights.

    A layer stays as it is if it has weights of its own, or cannot be called on symbolic tensors.
    """
    if not any(_opens(node.operation) for node in nodes(functional(model))):
        return model
    graph = functional(model)
    opened: dict[int, Any] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if id(operation) not in opened:
            opened[id(operation)] = _opened(operation, args, kwargs) if _opens(operation) else operation
        if opened[id(operation)] is operation or is_functional(operation):
            return opened[id(operation)](*args, **kwargs)
        return opened[id(operation)](_tensors(args, kwargs))

    return keras.Model(graph.input, repeat_calls(graph, graph.input, call), name=model.name)


def _opens(operation: Any) -> bool:
    """Whether something in it may have to be looked at."""
    if is_functional(operation):
        return any(_opens(node.operation) for node in nodes(functional(operation)))
    if not isinstance(operation, keras.Layer) or has_rule(operation) or not mask_layers(operation):
        return False
    return type(operation) is not type(mask_layers(operation)[0])


def _opened(layer: Any, args: Any, kwargs: Any) -> Any:
    if is_functional(layer):
        return expanded(layer)
    own: dict[str, Any] = {}
    layer.save_own_variables(own)
    if own or isinstance(layer, (keras.layers.Wrapper, keras.layers.RNN)):
        return layer
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in _tensors(args, kwargs)]
    left = iter(inputs)
    args, kwargs = keras.tree.map_structure(
        lambda argument: next(left) if isinstance(argument, keras.KerasTensor) else argument, (args, kwargs)
    )
    with contextlib.suppress(Exception):  # it may do anything
        return expanded(keras.Model(inputs, layer.call(*args, **kwargs), name=layer.name))
    return layer


def _tensors(args: Any, kwargs: Any) -> list[Any]:
    return [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
