"""Any runtime, for the order of passes: plans and forms that are good in ONNX Runtime and in OpenVINO."""

from __future__ import annotations

from dataclasses import replace

from passes.targets.onnxruntime.channel_multiples import Align
from passes.targets.onnxruntime.processors import RATES
from passes.targets.onnxruntime.target import OnnxRuntime
from passes.targets.openvino.processors import PROCESSORS

TITLE = "any runtime"

#: widths by the rates of ONNX Runtime, as all are alike to OpenVINO, and plans by those of both
TABLES = {name: replace(rates, beside=PROCESSORS[name]) for name, rates in RATES.items()}


def make(align: Align | None) -> OnnxRuntime:
    """The target, with widths by `align`."""
    return OnnxRuntime(align, elsewhere=True)
