"""Shape of a convolution for its kernels: window, strides, positions and groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import is_constant, shape_of
from passes.ops import rules
from passes.ops.convolutions.channel_groups import group_size
from passes.ops.convolutions.conv import Conv
from passes.sizes.tokens_per_example import usual_sizes


@dataclass(frozen=True)
class ConvolutionShape:
    """What the time of a convolution depends on beside its numbers of channels.

    `kernel`, `strides` and `dilations` are those of its window, `positions` the spatial sizes of its output and `batch`
    the one before the channels (a size that is not static is a usual one). `groups` is 1, or the number of groups
    before any is removed; `depthwise` where each reads and writes one channel. `nchwc` says whether it is of a form for
    which there are NCHWc kernels: two spatial axes, single precision, weights that are stored.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    positions: tuple[int, ...]
    batch: int = 1
    groups: int = 1
    depthwise: bool = False
    nchwc: bool = True

    @property
    def taps(self) -> int:
        """Weights of the window, for one channel read and one written."""
        return math.prod(self.kernel)

    def weights(self, read: int, written: int) -> int:
        """Elements of the weights, for so many channels read and written."""
        return written * self.taps * (1 if self.depthwise else read // self.groups)


def convolution_shape(node: gs.Node, multiples: Mapping[str, int] | None = None) -> ConvolutionShape | None:
    """The node as a convolution whose time depends on how round its widths are; None if it is something else.

    multiples: what open sizes count, where that is known.
    """
    if not isinstance(rules(node), Conv):
        return None
    weights, shape = shape_of(node.inputs[1]), shape_of(node.outputs[0])
    if weights is None or shape is None or not all(isinstance(size, int) for size in weights):
        return None
    _, _, *kernel = (int(size or 0) for size in weights)
    groups, ones = group_size(node), [1] * len(kernel)
    batch, _, *positions = usual_sizes(node.outputs[0], multiples)
    return ConvolutionShape(
        kernel=tuple(kernel),
        strides=tuple(node.attrs.get("strides", ones)),
        dilations=tuple(node.attrs.get("dilations", ones)),
        positions=tuple(positions),
        batch=batch,
        groups=groups,
        depthwise=is_depthwise(node),
        nchwc=len(kernel) == 2 and is_constant(node.inputs[1]) and node.outputs[0].dtype == np.float32,
    )


def is_depthwise(node: gs.Node) -> bool:
    """Whether the node is a convolution each of whose groups reads and writes one channel."""
    if not isinstance(rules(node), Conv) or (groups := group_size(node)) == 1:
        return False
    weights = shape_of(node.inputs[1])
    return weights is not None and weights[:2] == (groups, 1)
