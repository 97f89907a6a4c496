"""How fast OpenVINO is with which widths, on which processors: what plans are compared by.

Its convolutions (oneDNN's) like the widths that those of ONNX Runtime like: they compute vectors of channels, too. What
takes longer are adapters, as OpenVINO has reference kernels only for Gather, Pad and Concat of channels, on images with
channels first, and reorders what is before and after them. Measured between convolutions in OpenVINO 2026.4 on one core
of an Intel Xeon with AVX-512; the table for other processors is scaled by what ONNX Runtime takes there. Any operator
takes twice as long by itself: 1.7 µs at open sizes where ONNX Runtime takes 0.9 (adapters of a small classifier, AMD
EPYC, Zen 4).
"""

from __future__ import annotations

from dataclasses import replace

from passes.targets.onnxruntime.processors import RATES, Rates

# As many times what they take in ONNX Runtime.
_ADAPTED, _REORDERED, _NODE = 6.0, 2.0, 2.0

PROCESSORS: dict[str, Rates] = {
    name: replace(
        rates,
        ns_per_adapted_element=_ADAPTED * rates.ns_per_adapted_element,
        ns_per_reordered_element=_REORDERED * rates.ns_per_reordered_element,
        ns_per_node=_NODE * rates.ns_per_node,
    )
    for name, rates in RATES.items()
}
