"""Numerical comparison of the shrunk Keras model with its original."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from maskc.errors import NotEquivalentError
from maskc.frontend.tensorflow.keras import WATCHED, from_model
from maskc.runtime import accepted_sizes, random_inputs
from maskc.runtime.random_inputs import Inputs
from maskc.train.keras_internals import all_layers
from maskc.train.shrinking.known_channels import AnalysedModel
from maskc.verification.error_statistics import epsilon, farthest
from maskc.verification.output_tolerance import NOISE_FACTOR, ROUNDINGS, TENSORFLOW_FACTOR

_SAMPLES = 3


def check_outputs(model: Any, small: Any, analysis: AnalysedModel) -> None:
    """Runs both models on a few random inputs, in inference.

    Raises:
        NotEquivalentError: if outputs differ by more than rounding.
        NotComparableError: if the model runs on no input that could be made for it.
    """
    other = from_model(small, name=f"The smaller model {small.name!r}")
    own = [name for name in analysis.traced.outputs if name != WATCHED]
    states = [state for layer in (*all_layers(model), *all_layers(small)) for state in _states(layer)]

    def outputs(inputs: Inputs) -> dict[str, Any]:
        with _at_rest(states):
            results = analysis.traced.run(inputs)
        return {name: results[name] for name in own}

    def smaller(inputs: Inputs) -> dict[str, Any]:
        with _at_rest(states):
            results = other.run(dict(zip(other.inputs, inputs.values(), strict=True)))
        return dict(zip(own, results.values(), strict=True))

    ports = random_inputs.ports(analysis.graph)
    layers = all_layers(model)
    coarsest = max((_epsilon(layer.compute_dtype) for layer in layers), default=_epsilon("float32"))
    # kernels for other numbers of channels sum in other orders
    allowed = TENSORFLOW_FACTOR * ROUNDINGS * coarsest * np.sqrt(len(layers))
    planned = accepted_sizes.plan(ports, outputs, 0, most=_SAMPLES)
    for label, inputs in random_inputs.generate(ports, planned, _SAMPLES, 0):
        expected = outputs(inputs)
        error = farthest(expected, smaller(inputs))
        if error <= allowed:
            continue
        rng = np.random.default_rng(0)
        near = {name: _near(x, coarsest, rng) if x.dtype.kind == "f" else x for name, x in inputs.items()}
        with _rounded_weights(model, coarsest):
            noise = farthest(expected, outputs(near))
        if error > NOISE_FACTOR * noise:
            raise NotEquivalentError(
                f"The smaller model of {model.name!r} differs from it by {error:.1e} of the scale of its outputs, on "
                f"{label} inputs, where rounding explains {allowed:.1e}. This is a fault of maskc: please report it."
            )


def _states(layer: Any) -> list[Any]:
    """What a recurrent layer remembers from batch to batch."""
    return keras.tree.flatten(layer.states) if getattr(layer, "stateful", False) and layer.built else []


@contextlib.contextmanager
def _at_rest(states: Sequence[Any]) -> Iterator[None]:
    """Lets a run begin with states of zeros and leave them as they were."""
    before = [np.asarray(state) for state in states]
    for state in states:
        state.assign(np.zeros(state.shape))
    yield
    for state, value in zip(states, before, strict=True):
        state.assign(value)


def _epsilon(dtype: Any) -> float:
    try:
        return epsilon(np.dtype(dtype))
    except (TypeError, ValueError):
        return 2.0**-7 if dtype == "bfloat16" else 0.0


@contextlib.contextmanager
def _rounded_weights(model: Any, by: float) -> Iterator[None]:
    """Within, weights and masks are as far from what they are as rounding in any layer might bring its results.

    What comes in does not tell of all rounding: an offset may hide it, and what takes the offset away lay bare the
    rounding of the sums between.
    """
    rng = np.random.default_rng(0)
    values = [(variable, variable.numpy()) for variable in model.variables if _epsilon(variable.dtype)]
    try:
        for variable, value in values:
            variable.assign(_near(value, by, rng))
        yield
    finally:
        for variable, value in values:
            variable.assign(value)


def _near(array: Any, by: float, rng: np.random.Generator) -> Any:
    """Numbers as far from the given ones as rounding might bring them."""
    return (array * (1 + by * rng.choice((-1, 1), array.shape))).astype(array.dtype)
