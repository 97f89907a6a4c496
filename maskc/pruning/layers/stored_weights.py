"""Weights as a model stores them, read and written: those that are quantised keep their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from passes.graph.tensors import values_of
from passes.weights.steps import Steps


@dataclass(frozen=True)
class Constants:
    """Constants that layers read, by name, in floating point; `steps` of those that are stored as integers."""

    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    steps: dict[str, Steps] = field(default_factory=dict)

    def add(self, name: str, tensor: gs.Constant, steps: Steps | None) -> tuple[int, ...]:
        """One that a graph has; its shape."""
        if steps is not None:
            self.steps[name] = steps
        self.values[name] = np.array(values_of(tensor)) if steps is None else steps.values
        return self.values[name].shape

    def stored(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What a model stores, by the names of its initializers, where some have other values: the nearest steps."""
        found = {}
        for name, value in values.items():
            if (steps := self.steps.get(name)) is not None:
                found[steps.tensor] = steps.holding(value)
            else:
                found[name] = value.astype(self.values[name].dtype)
        return found

    def put(self, model: ModelProto, values: Mapping[str, NDArray[Any]]) -> ModelProto:
        """The model, in which some have other values, in place."""
        stored = self.stored(values)
        for tensor in model.graph.initializer:
            if tensor.name in stored:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(stored[tensor.name]), tensor.name))
        return model
