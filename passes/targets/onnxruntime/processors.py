"""Rates of ONNX Runtime's convolutions, by processor.

All were fitted to single convolutions in ONNX Runtime 1.31 on one core, and to what they take in networks, where more
comes from memory (`python -m benchmarks.rates` compares them again). Those of `avx512` on an AMD EPYC with AVX-512: the
estimates for most kinds of convolutions lie within a third of each other, and those for depthwise ones with NCHWc
kernels above, as these wait for memory. Those of `xeon` on an Intel Xeon (Emerald Rapids): within a quarter for most
kinds, depthwise ones within a half. Those of `avx2` on an AMD EPYC (Zen 4) with the AVX-512 kernels of ONNX Runtime
switched off: the estimates for most kinds lie within a quarter of each other, and those for depthwise ones with strides
above. A processor that has no AVX-512 at all may differ. Those of `zen4` on the same machine with them switched on,
which computes AVX-512 by halves: the estimates for all kinds lie within a fifth of each other. Only ratios within a
table matter.
"""

from __future__ import annotations

from dataclasses import replace

from passes.targets.widths.rates import Rates

_AVX512 = Rates(
    name="avx512",
    channels_per_block=16,
    ns_per_im2col_mac=1 / 107,
    ns_per_nchwc_mac=1 / 126,
    ns_per_nchw_to_nchwc_mac=1 / 128,
    blocks_charged_for_rest=(1.36, 2.0, 3.0),
    ns_per_accumulated_element=0.016,
    ns_per_im2col_element=0.14,
    ns_per_im2col_row=0.0,
    ns_per_element_in_place=0.14,
    ns_per_depthwise_mac=1 / 130,
    ns_per_strided_depthwise_mac=1 / 47,
    ns_per_unblocked_depthwise_mac=0.12,
    ns_per_unblocked_depthwise_channel=200.0,
    ns_per_touched_element=0.06,
    ns_per_loaded_weight=0.1,
    ns_per_loaded_window=0.0,
    cached_weights=8_000_000,
    ns_per_elementwise_element=0.14,
    ns_per_reordered_element=0.15,
    ns_per_adapted_element=0.15,
    ns_per_node=1500.0,
)

_AVX2 = Rates(
    name="avx2",
    channels_per_block=8,
    ns_per_im2col_mac=1 / 54,
    ns_per_nchwc_mac=1 / 55,
    ns_per_nchw_to_nchwc_mac=1 / 66,
    blocks_charged_for_rest=(2.0, 2.4, 3.0),
    ns_per_accumulated_element=0.038,
    ns_per_im2col_element=0.27,
    ns_per_im2col_row=8.0,
    ns_per_element_in_place=0.09,
    ns_per_depthwise_mac=1 / 36,
    ns_per_strided_depthwise_mac=1 / 33,
    ns_per_unblocked_depthwise_mac=0.18,
    ns_per_unblocked_depthwise_channel=250.0,
    ns_per_touched_element=0.055,
    ns_per_loaded_weight=0.15,
    ns_per_loaded_window=0.25,
    cached_weights=1_000_000,
    ns_per_elementwise_element=0.2,
    ns_per_reordered_element=0.18,
    ns_per_adapted_element=0.13,
    ns_per_node=2500.0,
)

# Fitted on the machine of `avx2`, with what is not named here the same.
_ZEN4 = replace(
    _AVX2,
    name="zen4",
    channels_per_block=16,
    ns_per_im2col_mac=1 / 58,
    ns_per_nchwc_mac=1 / 57,
    ns_per_nchw_to_nchwc_mac=1 / 64,
    blocks_charged_for_rest=(1.16, 2.08, 3.0),
    ns_per_accumulated_element=0.05,
    ns_per_im2col_element=0.31,
    ns_per_im2col_row=10.0,
    ns_per_element_in_place=0.13,
    ns_per_depthwise_mac=1 / 57,
    ns_per_strided_depthwise_mac=1 / 51,
    ns_per_unblocked_depthwise_mac=0.2,
    ns_per_touched_element=0.05,
    ns_per_elementwise_element=0.15,
    ns_per_reordered_element=0.16,
    ns_per_node=1000.0,
)

_XEON = replace(
    _AVX512,
    name="xeon",
    ns_per_im2col_mac=1 / 89,
    ns_per_nchwc_mac=1 / 91,
    ns_per_nchw_to_nchwc_mac=1 / 109,
    blocks_charged_for_rest=(1.42, 2.07, 3.0),
    ns_per_accumulated_element=0.026,
    ns_per_im2col_element=0.34,
    ns_per_im2col_row=24.0,
    ns_per_element_in_place=0.09,
    ns_per_depthwise_mac=1 / 83,
    ns_per_strided_depthwise_mac=1 / 23,
    ns_per_unblocked_depthwise_mac=0.22,
    ns_per_unblocked_depthwise_channel=270.0,
    ns_per_touched_element=0.03,
    ns_per_elementwise_element=0.25,
    ns_per_reordered_element=0.3,
    ns_per_adapted_element=0.25,
    ns_per_node=2500.0,
)

#: for a processor that is not known, where convolutions are timed: no channels are put into channel blocks
ANY = replace(_AVX512, name="any", channels_per_block=1, channel_multiple=1)

#: by the kind of processor, which decides on the kernels that ONNX Runtime uses
RATES: dict[str, Rates] = {rates.name: rates for rates in (_AVX512, _XEON, _ZEN4, _AVX2)}
