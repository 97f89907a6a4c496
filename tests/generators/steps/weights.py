"""Weights and biases as networks have them: pruned at times."""

import math
from collections.abc import Sequence

from tests.generators.builder import Array, Builder


def weight(b: Builder, shape: Sequence[int], fan_in: int, *, outputs: int, inputs: int | None) -> Array:
    """Weights of unit gain; at times with zero filters (along `outputs`) or zero columns (along `inputs`)."""
    w = b.normal(*shape, scale=1 / math.sqrt(max(fan_in, 1)))
    for axis, chance in ((outputs, 0.3), (inputs, 0.12)):
        if axis is not None and b.flip(chance):
            keep = b.keep(shape[axis])
            w = w * keep.reshape([-1 if i == axis else 1 for i in range(len(shape))]).astype(w.dtype)
    return w


def bias(b: Builder, channels: int) -> str:
    """The name of a bias; sometimes zero, sometimes partly zero."""
    vector = b.normal(channels, scale=0.5)
    kind = b.some(0, 5)
    if kind == 0:
        vector = vector * 0
    elif kind == 1:
        vector = vector * b.keep(channels).astype(vector.dtype)
    return b.const(vector, vector.dtype, "b")
