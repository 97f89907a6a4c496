"""ONNX Runtime on CPUs, for the order of passes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.targets.onnxruntime import (
    half_precision_transpose,
    integer_kernels,
    keep_nchwc_layout,
    pick_levels,
    pool_padding,
    relu_before_float8,
    slices_in_steps,
    space_to_depth_convolutions,
    squeeze_reshapes,
)
from passes.targets.onnxruntime.processors import RATES
from passes.targets.widths.channel_multiples import Align
from passes.targets.widths.rates import Rates

TABLES = RATES


@dataclass(frozen=True)
class OnnxRuntime:
    """A `passes.targets.base.Target`. By `align`, where it is rates, forms are chosen.

    elsewhere: whether the model is to be fast in other runtimes as well, and forms that are slower there are left out.
    """

    align: Align | None = None
    elsewhere: bool = False

    def write_fast_forms(self, graph: gs.Graph, limit: int, *, nested: bool) -> None:
        if isinstance(self.align, Rates):
            keep_nchwc_layout.keep_nchwc_layout(graph, self.align, limit, gates=not self.elsewhere)
            space_to_depth_convolutions.unroll(graph, self.align, limit)
        slices_in_steps.slice_in_steps(graph)
        pick_levels.pick_levels(graph)
        if not nested:
            squeeze_reshapes.squeeze_reshapes(graph)

    def faults(self, graph: gs.Graph, given: Collection[str]) -> Collection[str]:
        return pool_padding.merged(graph) | integer_kernels.merged(graph, given) | relu_before_float8.merged(graph)

    def avoid_faults(self, graph: gs.Graph, known: Collection[str], *, nested: bool) -> None:
        pool_padding.keep_apart(graph, known)
        integer_kernels.keep_floats(graph, known)
        relu_before_float8.keep_apart(graph, known)
        if not nested:
            half_precision_transpose.put_after(graph)


CPU = "cpu"
make = OnnxRuntime
