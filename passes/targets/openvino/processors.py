"""Rates of OpenVINO by width and processor, which plans are compared by.

Its convolutions hold the channels of a position side by side, whatever their number. They read as many as there are,
and write whole vectors: a wider layer never takes less time, but for a vector that is not full where there is no
AVX-512, or on a Zen 5. Measured on single convolutions in OpenVINO 2026.4 on one core of an AMD EPYC (Zen 4), with
AVX-512 and without (`brgconv_avx512`, `brgconv_avx2`): from 8 channels to 16 a layer of 48 filters reads 1.6 times as
long. On a Zen 5 half-masked published models are 1.03 times as fast with the number of AVX2 for a vector that is not
full (three seeds of five models, sizes open), basic-pitch up to 1.25 times. What takes longer than in ONNX Runtime are
adapters, as OpenVINO has reference kernels only for Gather, Pad and Concat of channels, on images with channels first,
and reorders what is before and after them: 0.4 to 1.5 ns for each element that is delivered, of residual networks of
one and two dimensions, by its own counters on one core of an Intel Xeon with AMX. Tables are scaled by what ONNX
Runtime takes on the same processor. Any operator takes twice as long by itself: 1.7 µs at open sizes where ONNX Runtime
takes 0.9 (adapters of a small classifier, AMD EPYC, Zen 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from passes.targets.onnxruntime.processors import RATES
from passes.targets.widths.convolution_shape import ConvolutionShape
from passes.targets.widths.rates import Form, Rates

# As many times what they take in ONNX Runtime. What an adapter is given, half of what it delivers, is reordered before
# it, and all after it.
_ADAPTED, _NODE = 2.0, 2.0
_REORDERS = 1.5

# As how many vectors one counts that is not full, by the kind of processor: kernels of AVX2 write it slowly, and so do
# those of AVX-512 on a Zen 5, from which the table for other processors that have it comes.
_PART = {"avx2": 1.7, "avx512": 1.7}


@dataclass(frozen=True, kw_only=True)
class ChannelsLast(Rates):
    """Rates of kernels that hold the channels of each position side by side; `Rates` says what its fields mean.

    vectors_charged_for_part: as how many vectors of the output, of `channels_per_block` channels, one counts that is
        not full.
    """

    vectors_charged_for_part: float = 1.0

    def form(self, shape: ConvolutionShape, read: int, written: int) -> Form:
        """Nothing is put into channel blocks."""
        return "im2col"

    def convolution(self, shape: ConvolutionShape, read: int, written: int) -> float:
        """Nanoseconds of the convolution itself."""
        positions = shape.batch * math.prod(shape.positions)
        touched = read * math.prod(shape.strides) + written
        time = self.ns_per_node + positions * touched * self.ns_per_touched_element
        if shape.depthwise:
            rate = self.ns_per_depthwise_mac if max(shape.strides) == 1 else self.ns_per_strided_depthwise_mac
            return time + positions * shape.taps * self.padded(written) * rate
        full, part = divmod(written / shape.groups, self.channels_per_block)
        wide = self.channels_per_block * (full + (self.vectors_charged_for_part if part else 0.0))
        return time + positions * shape.taps * read * wide * self.ns_per_nchwc_mac


def _channels_last(rates: Rates) -> ChannelsLast:
    """The table of a processor, by what ONNX Runtime takes there."""
    scaled = {
        "ns_per_adapted_element": _ADAPTED * rates.ns_per_adapted_element + _REORDERS * rates.ns_per_reordered_element,
        "ns_per_node": _NODE * rates.ns_per_node,
        "vectors_charged_for_part": _PART.get(rates.name, 1.0),
    }
    return ChannelsLast(**vars(rates) | scaled)


PROCESSORS: dict[str, Rates] = {name: _channels_last(rates) for name, rates in RATES.items()}
