"""How fast OpenVINO's convolutions are, on which processors: what plans are compared by.

Its kernels (oneDNN's, for AVX-512 and AVX2) read and write images with channels last, at any number of channels, and
compute a vector of channels of the output at once, so that no width is slow and none up to the next vector is faster.
What takes long are the adapters: Gather, Pad and Concat of channels run as reference kernels on images with channels
first, and what is around them is reordered twice. Fitted to single convolutions, and to adapters between them, in
OpenVINO 2026.4 on one core of an Intel Xeon with AVX-512; those of AVX2 are scaled from them by the width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from passes.targets.onnxruntime.convolution_shape import ConvolutionShape
from passes.targets.onnxruntime.processors import RATES, Form, Rates, round_up


@dataclass(frozen=True, kw_only=True)
class ChannelsLast(Rates):
    """Rates of kernels that have channels last. `channels_per_vector`: channels of the output computed at once."""

    channels_per_vector: int

    def form(self, shape: ConvolutionShape, read: int, written: int) -> Form:
        """What the layout of channel blocks is elsewhere: one that any convolution reads and writes."""
        return "nchwc"

    def _per_position(self, shape: ConvolutionShape, form: Form, read: int, written: int) -> float:
        return super()._per_position(shape, form, read, round_up(written, self.channels_per_vector))


_AVX512 = ChannelsLast(
    **{
        **vars(RATES["avx512"]),
        "name": "avx512",
        "channels_per_block": 1,
        "channel_multiple": 1,
        "channels_per_vector": 16,
        "blocks_charged_for_rest": (1.0, 2.0, 3.0),
        "ns_per_nchwc_mac": 1 / 100,
        "ns_per_depthwise_mac": 1 / 50,
        "ns_per_strided_depthwise_mac": 1 / 50,
        "ns_per_reordered_element": 0.3,
        "ns_per_adapted_element": 0.8,
        "cached_weights": 10**12,
    }
)

_AVX2 = replace(
    _AVX512,
    name="avx2",
    channels_per_vector=8,
    ns_per_nchwc_mac=1 / 50,
    ns_per_im2col_mac=1 / 54,
    ns_per_depthwise_mac=1 / 30,
    ns_per_strided_depthwise_mac=1 / 30,
)

#: by the processors that have rates for ONNX Runtime
PROCESSORS: dict[str, ChannelsLast] = {"avx512": _AVX512, "zen4": replace(_AVX2, name="zen4"), "avx2": _AVX2}
