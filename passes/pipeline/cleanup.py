"""What is done to a graph after the rewriting: nothing of the masks is left."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from passes.cost import flops as cost
from passes.simplify import (
    absorb_gathers,
    constant_folding,
    dead_code,
    fold_scale_shift,
    narrow_weights,
)
from passes.simplify.decomposed_activations import hard_activations
from passes.targets.onnxruntime import fusions, keep_nchwc_layout, space_to_depth_convolutions
from passes.targets.onnxruntime.kernel_rates import Rates
from passes.weights import quantized


def clean(graph: gs.Graph, rates: Rates | None = None, flops: int = 0, source: onnx.ModelProto | None = None) -> None:
    """Leave nothing of the masks behind: fold, fuse, drop, share.

    With rates, write what runs faster by them, as far as the graph does not come to more than these FLOPs. With the
    source, store weights in as few bits as it does.
    """
    constant_folding.fold_constants(graph)
    # Reshapes that change nothing go only now: planned without them, a masked NASNet kept 2% more of its FLOPs
    dead_code.drop_identities(graph, shapes=True)
    absorb_gathers.absorb_orders(graph)
    fold_scale_shift.fold_into_producers(graph)
    hard_activations.join(graph)
    fold_scale_shift.fold_into_consumers(graph, fusions.fused_nodes(graph))
    dead_code.drop_identities(graph)
    dead_code.drop_unused(graph)
    if rates is not None:
        keep_nchwc_layout.stay_in_blocks(graph, rates, flops - cost.of_graph(graph).flops)
        space_to_depth_convolutions.unroll(graph, rates, flops - cost.of_graph(graph).flops)
    if source is not None:
        narrow_weights.narrowed(graph, source)
    quantized.restore(graph)
    constant_folding.share_constants(graph)
