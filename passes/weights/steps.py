"""Weights as numbers of few bits, of which a zero point and a scale make the elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from passes.graph.tensors import Array


@dataclass(frozen=True, eq=False)
class Steps:
    """A weight, (numbers - zero) · scale, whose numbers lie in the initializer `tensor` as `pack` leaves them.

    scale_tensor: the initializer that holds the scale, "" where none holds it as it is.
    """

    tensor: str
    numbers: Array
    scale: Array
    zero: Array
    pack: Callable[[Array], Array] = np.asarray
    scale_tensor: str = ""

    @property
    def values(self) -> Array:
        """The weight, in single precision before it has the type of the scale, as runtimes compute it."""
        return np.asarray((self.numbers.astype(np.float32) - self.zero) * self.scale).astype(self.scale.dtype)

    def with_room(self, values: Array) -> Steps:
        """The same with larger scales where the numbers of these values would be out of range."""
        limits = ml_dtypes.iinfo(self.numbers.dtype)  # type: ignore[no-untyped-call]
        with np.errstate(all="ignore"):  # of one sign alone there may be no room at any scale
            sides = [values / (end - self.zero.astype(np.float64)) for end in (limits.max, limits.min)]
        needed = np.nan_to_num(np.maximum(*sides), posinf=0.0, neginf=0.0)
        shape = (*[1] * (values.ndim - self.scale.ndim), *self.scale.shape)
        most = needed.max(axis=tuple(a for a, n in enumerate(shape) if n == 1), keepdims=True).reshape(self.scale.shape)
        return replace(self, scale=np.maximum(self.scale, most.astype(self.scale.dtype)))

    def holding(self, values: Array) -> Array:
        """What the initializer holds where the weight has the nearest values to these."""
        limits = ml_dtypes.iinfo(self.numbers.dtype)  # type: ignore[no-untyped-call]
        steps = np.rint(values / self.scale.astype(np.float64)) + self.zero
        return self.pack(np.clip(steps, limits.min, limits.max).astype(self.numbers.dtype))
