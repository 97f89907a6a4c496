"""Conversions that tf2onnx lacks or gets wrong, one file per family of TensorFlow operators."""

from maskc.frontend.tensorflow.operators import (  # noqa: F401
    arithmetic,
    convolution,
    einsum,
    fourier,
    movement,
    resize,
)
from maskc.frontend.tensorflow.operators.registry import DOMAIN as DOMAIN
from maskc.frontend.tensorflow.operators.registry import opset as opset
