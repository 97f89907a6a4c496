"""Conversions that tf2onnx lacks or gets wrong, one file per family of TensorFlow's operators."""

from maskc.frontend.tensorflow.operators import (
    arithmetic,
    convolution,
    einsum,
    fourier,
    lookup_tables,
    movement,
    resize,
)
from maskc.frontend.tensorflow.operators.registry import DOMAIN, opset

__all__ = [
    "DOMAIN",
    "arithmetic",
    "convolution",
    "einsum",
    "fourier",
    "lookup_tables",
    "movement",
    "opset",
    "resize",
]
