"""Kernels of ONNX Runtime for each operator: on NCHWc channel blocks, inside a convolution, slow ones.

Operators that are absent in a table do not, and take as long as an addition.
"""

from __future__ import annotations

from typing import Literal

import onnx_graphsurgeon as gs

from passes.graph.tensors import is_standard

#: whether NCHWc channel blocks can stay so: not at all, at any width, or where they are filled
ChannelBlocks = Literal["never", "always", "filled"]

_CHANNEL_BLOCKS: dict[str, ChannelBlocks] = {
    **dict.fromkeys("Add Clip Gelu HardSigmoid HardSwish LeakyRelu Mul Relu Sigmoid Sum Tanh".split(), "always"),
    **dict.fromkeys(("Resize", "Upsample"), "always"),
    **dict.fromkeys("AveragePool Concat GlobalAveragePool GlobalMaxPool MaxPool".split(), "filled"),
}

# What becomes a part of the convolution before it whether that runs on channel blocks or not.
_INSIDE_CONVOLUTION = frozenset("Clip HardSigmoid LeakyRelu Relu Sigmoid Tanh".split())

_SLOWNESS = {
    **dict.fromkeys(("Gelu", "Erf"), 4.0),
    **dict.fromkeys(("HardSwish", "Sigmoid", "Sqrt", "Swish", "Tanh"), 2.0),
    **dict.fromkeys(("Celu", "Cos", "Elu", "Log", "Selu", "Sin"), 11.0),
    "PRelu": 16.0,
    **dict.fromkeys(("Mish", "Softplus"), 60.0),
}


def channel_blocks(node: gs.Node) -> ChannelBlocks:
    """Whether channels that are in NCHWc channel blocks can stay so here."""
    return _CHANNEL_BLOCKS.get(node.op, "never") if is_standard(node) else "never"


def fuses_into_convolution(node: gs.Node) -> bool:
    """Whether it is computed as a part of the convolution before it, if it alone reads what that writes."""
    return is_standard(node) and node.op in _INSIDE_CONVOLUTION


def slowness(node: gs.Node) -> float:
    """How many times as long as an addition it takes for an element."""
    return _SLOWNESS.get(node.op, 1.0) if is_standard(node) else 1.0
