"""Distance of outputs from those of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]

_TINY = 1e-12


def divergence(expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The mean over outputs of how far they are from what is expected; 0 where they are equal.

    Of probabilities along the last axis it is the Kullback-Leibler divergence, in nats, of other numbers the mean
    square of the error over the variance. Outputs of integers, and of other shapes than expected, do not count; where
    none counts, it is infinite.
    """
    terms = []
    for name in expected[0] if expected else ():
        pairs = [(one[name], other[name]) for one, other in zip(expected, found, strict=True) if name in other]
        if pairs and all(a.shape == b.shape and a.dtype.kind == "f" and a.size for a, b in pairs):
            terms.append(_of_output([(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs]))
    return float(np.mean(terms)) if terms else float("inf")


def _of_output(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    if all(is_distribution(a) for a, _ in pairs):
        return float(np.mean([from_distribution(a, b).mean() for a, b in pairs]))
    expected = np.concatenate([a.ravel() for a, _ in pairs])
    error = np.concatenate([(a - b).ravel() for a, b in pairs])
    return float(np.mean(np.square(error)) / max(float(expected.var()), _TINY))


def from_distribution(expected: NDArray[np.float64], found: NDArray[Any]) -> NDArray[np.float64]:
    """The Kullback-Leibler divergences, in nats, from probabilities along the last axis."""
    ratio = np.log(expected + _TINY) - np.log(np.maximum(found, 0) + _TINY)
    return np.asarray(np.sum(expected * ratio, axis=-1))


def is_distribution(values: NDArray[Any]) -> bool:
    """Whether the numbers along the last axis, of more than one, are probabilities."""
    if values.ndim == 0 or values.shape[-1] < 2 or values.dtype.kind != "f":
        return False
    return bool((values >= 0).all() and np.allclose(values.sum(axis=-1, dtype=np.float64), 1, atol=1e-2))
