"""Steps of random networks in the operators of ONNX Runtime's own that its optimiser writes into files."""

import math
from typing import Any

from onnx import TensorProto

from tests.generators.builder import Builder, Value, size

DOMAIN = "com.microsoft"

# Activations and their parameters.
_FUSED: dict[str, list[float]] = {"Clip": [-1.0, 1.5], "LeakyRelu": [0.1], "Relu": [], "Tanh": [], "": []}


def _written(b: Builder, v: Value, *, rank: int | None = None, axis: int = -1) -> bool:
    """Whether the operators take such a tensor; they are not the standard's, so nothing runs them in double."""
    fits = b.dtype == TensorProto.FLOAT and (rank is None or v.rank == rank) and v.axis == axis % v.rank
    b.sharp = b.sharp and not fits
    return fits


def activation(b: Builder, v: Value) -> Value | None:
    """A Gelu of some kind, at times with a bias."""
    if v.rank < 2 or not _written(b, v):
        return None
    op = ("Gelu", "QuickGelu", "FastGelu", "BiasGelu")[b.some(0, 3)]
    biased = op == "BiasGelu" or (op == "FastGelu" and b.flip(0.5))
    return b.like(op, v, *([b.const(b.normal(v.channels))] if biased else []), domain=DOMAIN)


def product(b: Builder, v: Value) -> Value | None:
    """A product with a constant matrix, transposed or not, scaled; of two axes at times with an activation."""
    if v.rank < 2 or not _written(b, v):
        return None
    k, n, transposed = v.channels, b.width(1, 9), int(b.flip(0.5))
    w = b.normal(k, n, scale=1 / math.sqrt(k))
    w[:, ~b.keep(n)] = 0
    name, shape = b.const(w.T.copy() if transposed else w), [*v.shape[:-1], n]
    attrs: dict[str, Any] = {"transB": transposed, "alpha": 0.7, "domain": DOMAIN}
    if v.rank == 2 and b.flip(0.5):
        return b.op("FusedGemm", [v, name, b.const(b.normal(n))], shape, 1, activation="Relu", **attrs)
    return b.op("FusedMatMul", [v, name], shape, v.rank - 1, **attrs)


def convolution(b: Builder, v: Value) -> Value | None:
    """A convolution with an activation, of the same size."""
    if not _written(b, v, rank=4, axis=1):
        return None
    n, k, kind = b.width(1, 9), b.some(0, 1), list(_FUSED)[b.some(0, len(_FUSED) - 1)]
    w = b.normal(n, v.channels, 2 * k + 1, 2 * k + 1, scale=1 / math.sqrt(v.channels * (2 * k + 1) ** 2))
    w[~b.keep(n)] = 0
    attrs: dict[str, Any] = {"activation": kind or None, "pads": [k] * 4, "domain": DOMAIN}
    if _FUSED[kind]:
        attrs["activation_params"] = _FUSED[kind]
    return b.op("FusedConv", [v, b.const(w), b.const(b.normal(n))], [v.shape[0], n, *v.shape[2:]], 1, **attrs)


def normalisation(b: Builder, v: Value) -> Value | None:
    """LayerNormalization of the sum with another of the same shape."""
    if not _written(b, v, rank=3) or v.channels < 2:
        return None
    others = [u for u in b.pool if u.shape == v.shape]
    skip = b.pick(others) if others else v
    scale = [b.const(b.normal(size(v.shape[-1]))) for _ in range(2)]
    return b.like("SkipLayerNormalization", v, skip, *scale, epsilon=0.1, domain=DOMAIN)
