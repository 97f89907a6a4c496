"""Weights as numbers of few bits, of which a zero point and a scale make the elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from passes.graph.tensors import Array


@dataclass(frozen=True, eq=False)
class Steps:
    """A weight, (numbers - zero) · scale, whose numbers lie in the initializer `tensor` as `pack` leaves them."""

    tensor: str
    numbers: Array
    scale: Array
    zero: Array
    pack: Callable[[Array], Array] = np.asarray

    @property
    def values(self) -> Array:
        """The weight, in single precision before it has the type of the scale, as runtimes compute it."""
        return np.asarray((self.numbers.astype(np.float32) - self.zero) * self.scale).astype(self.scale.dtype)

    def holding(self, values: Array) -> Array:
        """What the initializer holds where the weight has the nearest values to these."""
        limits = ml_dtypes.iinfo(self.numbers.dtype)  # type: ignore[no-untyped-call]
        steps = np.rint(values / self.scale.astype(np.float64)) + self.zero
        return self.pack(np.clip(steps, limits.min, limits.max).astype(self.numbers.dtype))
