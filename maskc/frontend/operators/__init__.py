"""Conversions that tf2onnx lacks or gets wrong, one file per family of TensorFlow's operators."""

from maskc.frontend.operators import arithmetic, convolution, einsum, movement, resize, signal, tables
from maskc.frontend.operators.registry import DOMAIN, opset

__all__ = ["DOMAIN", "arithmetic", "convolution", "einsum", "movement", "opset", "resize", "signal", "tables"]
