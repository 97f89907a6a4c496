"""OpenVINO on CPUs, for the order of passes."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.cost import sum_over_nodes
from passes.planning.planner import PlanOptions
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan
from passes.targets.base import ChannelMultiples
from passes.targets.onnxruntime import channel_multiples, fusions, space_to_depth_convolutions, squeeze_reshapes
from passes.targets.onnxruntime.channel_multiples import Align
from passes.targets.onnxruntime.processors import Rates
from passes.targets.openvino import channel_orders, depth_to_space_convolutions
from passes.targets.openvino.decompose_hard_sigmoid import decompose_hard_sigmoid
from passes.targets.openvino.processors import PROCESSORS

TITLE = "OpenVINO on CPUs"
TABLES = PROCESSORS


@dataclass(frozen=True)
class OpenVino:
    """A `passes.targets.base.Target`. By `align` plans are compared, and channels stay where all widths are asked for.

    It fuses the patterns that ONNX Runtime fuses. What it gets wrong of a source is right in the compiled model.
    """

    align: Align | None = None

    def fused_nodes(self, graph: gs.Graph) -> Set[int]:
        return fusions.fused_nodes(graph)

    def choose_channel_multiples(
        self, graph: gs.Graph, facts: Facts, plan: StoragePlan, options: PlanOptions
    ) -> ChannelMultiples:
        if self.align is None:
            return ChannelMultiples(plan, facts)
        return channel_multiples.choose_channel_multiples(graph, facts, plan, self.align, options)

    def write_fast_forms(self, graph: gs.Graph, limit: int, *, nested: bool) -> None:
        if isinstance(self.align, Rates):
            space_to_depth_convolutions.unroll(graph, self.align, limit)
        decompose_hard_sigmoid(graph, limit - sum_over_nodes.flops_of(graph))
        depth_to_space_convolutions.move_windows_to_channels(graph)
        if not nested:
            squeeze_reshapes.squeeze_reshapes(graph)

    def faults(self, graph: gs.Graph) -> Collection[str]:
        return ()

    def avoid_faults(self, graph: gs.Graph, known: Collection[str], *, nested: bool) -> None:
        channel_orders.split_orders(graph)


def make(align: Align | None) -> OpenVino:
    """The target, with widths by `align`."""
    return OpenVino(align)
