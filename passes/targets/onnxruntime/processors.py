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
from typing import Any

from passes.targets.widths.rates import Rates

# Products of 8-bit numbers add up four in an instruction: convolutions of 50 or 63 channels take 1.4 times as long as
# those of 52 or 64 (ONNX Runtime 1.31 with VNNI).
_INTEGERS = 4

_PROCESSORS = ("avx512", "xeon", "zen4", "avx2")

# By the field of `Rates`, its value for each of these.
_RATES: dict[str, tuple[Any, ...]] = {
    "channels_per_block": (16, 16, 16, 8),
    "ns_per_im2col_mac": (1 / 107, 1 / 89, 1 / 58, 1 / 54),
    "ns_per_nchwc_mac": (1 / 126, 1 / 91, 1 / 57, 1 / 55),
    "ns_per_nchw_to_nchwc_mac": (1 / 128, 1 / 109, 1 / 64, 1 / 66),
    "blocks_charged_for_rest": ((1.36, 2.0, 3.0), (1.42, 2.07, 3.0), (1.16, 2.08, 3.0), (2.0, 2.4, 3.0)),
    "ns_per_accumulated_element": (0.016, 0.026, 0.05, 0.038),
    "ns_per_im2col_element": (0.14, 0.34, 0.31, 0.27),
    "ns_per_im2col_row": (0.0, 24.0, 10.0, 8.0),
    "ns_per_element_in_place": (0.14, 0.09, 0.13, 0.09),
    "ns_per_depthwise_mac": (1 / 130, 1 / 83, 1 / 57, 1 / 36),
    "ns_per_strided_depthwise_mac": (1 / 47, 1 / 23, 1 / 51, 1 / 33),
    "ns_per_unblocked_depthwise_mac": (0.12, 0.22, 0.2, 0.18),
    "ns_per_unblocked_depthwise_channel": (200.0, 270.0, 250.0, 250.0),
    "ns_per_touched_element": (0.06, 0.03, 0.05, 0.055),
    "ns_per_loaded_weight": (0.1, 0.1, 0.15, 0.15),
    "ns_per_loaded_window": (0.0, 0.0, 0.25, 0.25),
    "cached_weights": (8_000_000, 8_000_000, 1_000_000, 1_000_000),
    "ns_per_elementwise_element": (0.14, 0.25, 0.15, 0.2),
    "ns_per_reordered_element": (0.15, 0.3, 0.16, 0.18),
    "ns_per_adapted_element": (0.15, 0.25, 0.13, 0.13),
    "ns_per_node": (1500.0, 2500.0, 1000.0, 2500.0),
}

#: by the kind of processor, which decides on the kernels that ONNX Runtime uses
RATES = {
    name: Rates(name=name, integers_per_piece=_INTEGERS, **{field: values[column] for field, values in _RATES.items()})
    for column, name in enumerate(_PROCESSORS)
}

#: for a processor that is not known, where convolutions are timed: no channels are put into channel blocks
ANY = replace(RATES["avx512"], name="any", channels_per_block=1, channel_multiple=1)
