"""Which model a pruning optimizer works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from maskc.errors import InputError
from maskc.train.mask_layer import MaskLayer, mask_layers


def find_model(layers: Sequence[MaskLayer], given: Any = None) -> Any:
    """Returns the model that was called in the training step in which `layers` estimated importance.

    Args:
        layers: the mask layers to prune, after the forward pass of the first training step.
        given: the model, if it is known.

    Raises:
        InputError: if there is no telling the model, if it does not hold all the layers, if no layer
            estimated importance, or if one was called more than once in the same forward pass.
    """
    for layer in layers:
        if layer.observation is not None and layer.observation.calls > 1:
            raise InputError(
                f"The mask layer {layer.name!r} is called {layer.observation.calls} times in one forward pass, so "
                "its signal cannot be told per example; give each place a mask layer of its own."
            )
    observations = [layer.observation for layer in layers if layer.observation]
    if not observations:
        raise InputError(
            "No mask layer gathered a signal. In a custom loop pass model= to PruningOptimizer and call the "
            "model with training=True; a model that is compiled must be compiled with this optimizer."
        )
    model = given
    if model is None:
        called = {id(found): found for found in (observation.model() for observation in observations)}
        model = next(iter(called.values())) if len(called) == 1 else None
    if not isinstance(model, keras.Model):
        raise InputError("PruningOptimizer cannot tell which model's FLOPs to count: pass model=.")
    inside = {id(layer) for layer in mask_layers(model)}
    for layer in layers:
        if id(layer) not in inside:
            raise InputError(f"The model {model.name!r} does not contain the mask layer {layer.name!r}.")
    return model
