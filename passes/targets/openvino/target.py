"""OpenVINO on CPUs, for the order of passes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.sizes import sum_over_nodes
from passes.targets.onnxruntime import slices_in_steps, space_to_depth_convolutions, squeeze_reshapes
from passes.targets.openvino import channel_orders, depth_to_space_convolutions, padded_steps
from passes.targets.openvino.decompose_hard_sigmoid import decompose_hard_sigmoid
from passes.targets.openvino.processors import PROCESSORS
from passes.targets.widths.channel_multiples import Align
from passes.targets.widths.rates import Rates

TABLES = PROCESSORS


@dataclass(frozen=True)
class OpenVino:
    """A `passes.targets.base.Target`. By `align`, where it is rates, forms are chosen.

    What it gets wrong of a source is right in the compiled model.
    """

    align: Align | None = None

    def write_fast_forms(self, graph: gs.Graph, limit: int, *, nested: bool) -> None:
        if isinstance(self.align, Rates):
            space_to_depth_convolutions.unroll(graph, self.align, limit)
        decompose_hard_sigmoid(graph, limit - sum_over_nodes.flops_of(graph))
        depth_to_space_convolutions.move_windows_to_channels(graph)
        slices_in_steps.slice_in_steps(graph)
        if not nested:
            squeeze_reshapes.squeeze_reshapes(graph)

    def faults(self, graph: gs.Graph, given: Collection[str]) -> Collection[str]:
        return ()

    def avoid_faults(self, graph: gs.Graph, known: Collection[str], *, nested: bool) -> None:
        channel_orders.split_orders(graph)
        padded_steps.mask_gathers(graph)
        padded_steps.own_steps(graph)


CPU = "openvino"
make = OpenVino
