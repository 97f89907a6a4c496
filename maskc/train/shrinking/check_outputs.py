"""Numerical comparison of the shrunk Keras model with its original."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskc.errors import NotEquivalentError
from maskc.frontend.tensorflow.keras import WATCHED, from_model
from maskc.runtime import accepted_sizes, random_inputs
from maskc.runtime.random_inputs import Inputs
from maskc.train.keras_internals import all_layers
from maskc.train.shrinking.known_channels import AnalysedModel
from maskc.verification.error_statistics import epsilon, farthest
from maskc.verification.tolerance import NOISE_FACTOR, ROUNDINGS, TENSORFLOW_FACTOR

_SAMPLES = 3


def check_outputs(model: Any, small: Any, analysis: AnalysedModel) -> None:
    """Runs both models on a few random inputs, in inference.

    Raises:
        NotEquivalentError: if outputs differ by more than rounding.
        NotComparableError: if the model runs on no input that could be made for it.
    """
    other = from_model(small, name=f"The smaller model {small.name!r}")
    own = [name for name in analysis.traced.outputs if name != WATCHED]

    def outputs(inputs: Inputs) -> dict[str, Any]:
        results = analysis.traced.run(inputs)
        return {name: results[name] for name in own}

    ports = random_inputs.ports(analysis.graph)
    layers = all_layers(model)
    coarsest = max((_epsilon(layer.compute_dtype) for layer in layers), default=_epsilon("float32"))
    # kernels for other numbers of channels sum in other orders
    allowed = TENSORFLOW_FACTOR * ROUNDINGS * coarsest * np.sqrt(len(layers))
    planned = accepted_sizes.plan(ports, outputs, 0, most=_SAMPLES)
    for label, inputs in random_inputs.generate(ports, planned, _SAMPLES, 0):
        expected = outputs(inputs)
        actual = dict(zip(own, other.run(dict(zip(other.inputs, inputs.values(), strict=True))).values(), strict=True))
        error = farthest(expected, actual)
        if error > allowed and error > NOISE_FACTOR * farthest(expected, outputs(_rounded(inputs, coarsest))):
            raise NotEquivalentError(
                f"The smaller model of {model.name!r} differs from it by {error:.1e} of the scale of its outputs, on "
                f"{label} inputs, where rounding explains {allowed:.1e}. This is a fault of maskc: please report it."
            )


def _epsilon(dtype: Any) -> float:
    try:
        return epsilon(np.dtype(dtype))
    except (TypeError, ValueError):
        return 2.0**-7 if dtype == "bfloat16" else 0.0


def _rounded(inputs: Inputs, by: float) -> Inputs:
    """Inputs as far from the given ones as rounding might bring them."""
    rng = np.random.default_rng(0)
    return {
        name: (array * (1 + by * rng.choice((-1, 1), array.shape))).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in inputs.items()
    }
