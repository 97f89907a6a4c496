"""Rates of kernels by the form of a convolution: nanoseconds of each, or the multiples that widths are rounded up to.

Which convolutions run on NCHWc channel blocks is decided by ONNX Runtime when it loads the model
(onnxruntime/core/optimizer/nchwc_transformer.cc); `Rates.form` says the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from passes.targets.widths.convolution_shape import ConvolutionShape

#: how a convolution runs: as a matrix product of windows (im2col), channel by channel; on NCHWc channel blocks; or
#: reading few channels as they are (NCHW) and writing channel blocks
Form = Literal["im2col", "nchwc", "nchw_to_nchwc"]

# Channel blocks of the output that a kernel computes at once.
_BLOCKS_AT_ONCE = 4


def is_small(dtype: np.dtype[Any]) -> bool:
    """Whether these are 8-bit numbers."""
    return dtype.kind in "iu" and dtype.itemsize == 1


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Nanoseconds (ns) of one core, by what a kernel does.

    Multiply-adds (MACs) are those of each form of convolution, and of depthwise convolutions: on channel blocks, with
    and without strides, and unblocked, which have a cost for each channel too and take twice as long with strides.

    channels_per_block: channels of one NCHWc channel block.
    channel_multiple: what the number of channels must divide by to be put into channel blocks.
    blocks_charged_for_rest: as how many channel blocks the one, two or three count that are left beside whole fours of
        the output, as a kernel computes four at once.
    ns_per_accumulated_element: an output element that an `nchw_to_nchwc` convolution takes up again, for each channel
        that it reads.
    positions_per_tile: positions of the output that a matrix product computes together.
    tile_positions_per_lone_position: as how many each position counts where there are fewer.
    ns_per_im2col_element: laying out one element of a window.
    ns_per_im2col_row: one weight of a filter, along which windows are laid out (not measured for `avx512`).
    ns_per_element_in_place: an element that is read where it lies, as windows of one position without strides are.
    ns_per_touched_element: an element that a convolution reads or writes, those that fill up channel blocks included.
    cached_weights: a model of more weights than these does not keep them in the caches. Then a convolution waits for
        each weight (ns_per_loaded_weight), or a matrix product for each window of a filter, whose weights lie in a row
        (ns_per_loaded_window).
    ns_per_elementwise_element: an element that an elementwise operator writes.
    ns_per_reordered_element: an element that is brought into channel blocks or out of them.
    ns_per_adapted_element: an element that an adapter delivers.
    ns_per_gathered_piece: each of the pieces that a Gather copies one by one.
    ns_per_node: any operator.
    least_gain_ns: what a model must win before channels are computed that could be removed.
    bytes_per_piece: kernels read channels in pieces of so many bytes, and are slower where widths are no multiple.
    integers_per_piece: the same of kernels of 8-bit numbers, in channels.
    beside: those of another runtime, in which the same model is to be fast, too.
    """

    name: str
    channels_per_block: int
    channel_multiple: int = 4
    ns_per_im2col_mac: float
    ns_per_nchwc_mac: float
    ns_per_nchw_to_nchwc_mac: float
    blocks_charged_for_rest: tuple[float, float, float]
    ns_per_accumulated_element: float
    positions_per_tile: int = 16
    tile_positions_per_lone_position: float = 3.5
    ns_per_im2col_element: float
    ns_per_im2col_row: float
    ns_per_element_in_place: float
    ns_per_depthwise_mac: float
    ns_per_strided_depthwise_mac: float
    ns_per_unblocked_depthwise_mac: float
    ns_per_unblocked_depthwise_channel: float
    ns_per_touched_element: float
    ns_per_loaded_weight: float
    ns_per_loaded_window: float
    cached_weights: int
    ns_per_elementwise_element: float
    ns_per_reordered_element: float
    ns_per_adapted_element: float
    ns_per_gathered_piece: float = 4.0
    ns_per_node: float
    least_gain_ns: float = 10_000.0
    bytes_per_piece: int = 1
    integers_per_piece: int = 1
    beside: Rates | None = None

    def form(self, shape: ConvolutionShape, read: int, written: int) -> Form:
        """How the convolution runs that reads and writes so many channels."""
        if not shape.nchwc:
            return "im2col"
        if shape.depthwise:
            return "im2col" if written % self.channel_multiple else "nchwc"
        if shape.groups > 1:
            multiple = shape.groups * self.channels_per_block
            return "nchwc" if read % multiple == written % multiple == 0 else "im2col"
        if read < self.channels_per_block:
            return "nchw_to_nchwc"
        return "im2col" if read % self.channel_multiple else "nchwc"

    def convolution(self, shape: ConvolutionShape, read: int, written: int) -> float:
        """Nanoseconds of the convolution itself."""
        form = self.form(shape, read, written)
        positions = shape.batch * math.prod(shape.positions)
        taken = self.padded(read) if form == "nchwc" else read
        touched = taken * math.prod(shape.strides) + (written if form == "im2col" else self.padded(written))
        time = self.ns_per_node + positions * touched * self.ns_per_touched_element
        if form != "im2col":
            return time + positions * self._per_position(shape, form, taken, written)
        if shape.depthwise:
            slower = 1 if max(shape.strides) == 1 else 2
            macs = shape.taps * positions * self.ns_per_unblocked_depthwise_mac * slower
            return time + written * (shape.batch * self.ns_per_unblocked_depthwise_channel + macs)
        return time + self._im2col(shape, read, written)

    def loading(self, shape: ConvolutionShape, read: int, written: int) -> float:
        """Nanoseconds more where the weights come from memory."""
        if shape.depthwise:
            return 0.0
        windows = self.form(shape, read, written) == "im2col"
        each = self.ns_per_loaded_window / shape.taps if windows else self.ns_per_loaded_weight
        return each * shape.weights(read, written)

    def groups_at_once(self, left: int, channels: int) -> int:
        """How many groups go together, of those left, each of so many channels of a convolution or of none.

        That leaves whole channel blocks, or a part of one that is the last: kernels take as long for one partly filled.
        """
        block, part = (max(1, size // (channels or size)) for size in (self.channels_per_block, self.channel_multiple))
        return block if left > block else part

    @property
    def predicts(self) -> bool:
        """Whether they say how long a layer takes, and not only which widths and forms are fast."""
        return self.bytes_per_piece == 1

    def multiple(self, dtype: np.dtype[Any]) -> int:
        """How many elements of this type widths are rounded up to."""
        return max(1, self.bytes_per_piece // max(dtype.itemsize, 1), self.integers_per_piece if is_small(dtype) else 1)

    def padded(self, channels: int) -> int:
        """The channels of as many channel blocks as hold so many."""
        return round_up(channels, self.channels_per_block)

    def _im2col(self, shape: ConvolutionShape, read: int, written: int) -> float:
        """Nanoseconds of laying out windows, and of a matrix product for each group."""
        per_group, positions = read / shape.groups, math.prod(shape.positions)
        tiles = round_up(positions, self.positions_per_tile)
        tiled = shape.batch * min(tiles, self.tile_positions_per_lone_position * positions)
        if shape.taps == max(shape.strides) == 1:
            layout = shape.batch * positions * self.ns_per_element_in_place
        else:
            layout = shape.batch * self.ns_per_im2col_row + shape.batch * positions * self.ns_per_im2col_element
        macs = per_group * (written / shape.groups) * shape.taps * tiled
        return shape.groups * (macs * self.ns_per_im2col_mac + per_group * shape.taps * layout)

    def _per_position(self, shape: ConvolutionShape, form: Form, read: int, written: int) -> float:
        """Nanoseconds for each position of the output of a convolution that writes channel blocks."""
        if shape.depthwise:
            strided = max(shape.strides) > 1
            return read * shape.taps * (self.ns_per_strided_depthwise_mac if strided else self.ns_per_depthwise_mac)
        whole, rest = divmod(self.padded(written) // self.channels_per_block, _BLOCKS_AT_ONCE)
        charged = whole * _BLOCKS_AT_ONCE + (0, *self.blocks_charged_for_rest)[rest]
        wide = self.channels_per_block * charged / shape.groups
        if form == "nchw_to_nchwc":
            return read * wide * (shape.taps * self.ns_per_nchw_to_nchwc_mac + self.ns_per_accumulated_element)
        return read * wide * shape.taps * self.ns_per_nchwc_mac


def round_up(value: int, multiple: int) -> int:
    """The next multiple that is not less."""
    return -(-value // multiple) * multiple
