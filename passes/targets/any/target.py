"""Any runtime, for the order of passes: plans and forms that are good in ONNX Runtime and in OpenVINO."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from passes.targets.onnxruntime.processors import RATES
from passes.targets.onnxruntime.target import OnnxRuntime
from passes.targets.openvino.processors import PROCESSORS
from passes.targets.openvino.target import OpenVino

#: widths by the rates of ONNX Runtime, as no wider layer is faster in OpenVINO, and plans by those of both
TABLES = {name: replace(rates, beside=PROCESSORS[name]) for name, rates in RATES.items()}


@dataclass(frozen=True)
class AnyRuntime(OnnxRuntime):
    """ONNX Runtime's target without what is slow elsewhere, and with the faults of OpenVINO avoided as well."""

    elsewhere: bool = True

    def avoid_faults(self, graph: gs.Graph, known: Collection[str], *, nested: bool) -> None:
        super().avoid_faults(graph, known, nested=nested)
        OpenVino().avoid_faults(graph, known, nested=nested)


CPU = "cpu"
make = AnyRuntime
