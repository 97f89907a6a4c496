"""Dispatch from layers and operations to their shrinking rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
from keras import layers

from maskc.train.keras_internals import all_layers
from maskc.train.models.activations import is_operation
from maskc.train.shrinking.rules import attention, by_channel, contractions, rearranging, recurrent
from maskc.train.shrinking.rules.base import Narrowed, Place, Rule, everything

_RULES = contractions.RULES | by_channel.RULES | rearranging.RULES | attention.RULES | recurrent.RULES
_BY_NAME = contractions.BY_NAME | by_channel.BY_NAME | rearranging.BY_NAME


def narrowed(operation: Any, place: Place) -> Narrowed:
    """What becomes of a layer or operation at this place: of one without a rule nothing."""
    result = _by_rule(operation, place) or everything(operation, place)
    more = everything(operation, place).inputs[len(result.inputs) :]  # masks of steps, which the rule does not know
    return replace(result, inputs=[*result.inputs, *more])


def has_rule(operation: Any) -> bool:
    """Whether it is known what becomes of a layer or operation."""
    return _rule(operation) is not None


def _by_rule(operation: Any, place: Place) -> Narrowed | None:
    rule = _rule(operation)
    if rule is None or getattr(operation, "data_format", "channels_last") != "channels_last":
        return None
    parts = all_layers(operation) if isinstance(operation, keras.Layer) else ()
    # inside, none may have weights of low rank, which `enable_lora` gives
    inner = (part for part in parts if part is not operation)
    if any(part.quantization_mode for part in parts) or any(getattr(part, "lora_enabled", False) for part in inner):
        return None
    try:
        return rule(operation, place)
    except LookupError:  # a tensor without channels
        return None


def _rule(operation: Any) -> Rule | None:
    if type(operation) is layers.TimeDistributed:
        return _time_distributed
    result = _RULES.get(type(operation))
    if result is not None or not type(operation).__module__.startswith("keras."):
        return result
    if isinstance(operation, keras.Layer) or not is_operation(operation):
        return _BY_NAME.get(type(operation).__name__)
    return by_channel.without_weights


def _time_distributed(layer: Any, place: Place) -> Narrowed | None:
    """As the layer that is applied at each step."""
    result = _by_rule(layer.layer, place)
    if result is None:
        return None
    inner = layer.get_config()["layer"]
    config = {**inner, "config": {**inner["config"], **result.config}}
    return Narrowed(result.inputs, result.outputs, {"layer": config}, result.weights, result.added)
