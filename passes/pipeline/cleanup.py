"""Clean-up after rewriting: folds scales, orders and constants into the weights."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from passes.rewriting.origins import Origins
from passes.simplify import (
    absorb_gathers,
    constant_folding,
    dead_code,
    fold_scale_shift,
    one_hot_to_gather,
)
from passes.simplify.decomposed_operators import hard_activations
from passes.simplify.products import factor_out_of_sums
from passes.targets.widths.fusions import fused_nodes
from passes.weights import write_quantized


def clean(graph: gs.Graph, origins: Origins, *, nested: bool = False, activations: bool = True) -> None:
    """Leave nothing of the masks: fold constants, scales and Gathers into weights, fuse activations, drop the rest.

    A `nested` graph reads tensors of the one around it, where some rewrites would not notice that. Channels in another
    order are noted in `origins`. activations: whether they are fused, for which a contraction may get a bias.
    """
    while constant_folding.fold_constants(graph):
        pass  # of operands that several nodes read, the last one is computed once the others are
    # Reshapes that change nothing are removed only now: planned without them, a masked NASNet kept 2% more of its FLOPs
    dead_code.drop_identities(graph, shapes=True)
    dead_code.drop_unused(graph)  # what a Concat no longer reads counts as no reader, and raises no opset
    if not nested:
        absorb_gathers.absorb_orders(graph, origins)
    factor_out_of_sums.factor_out(graph)
    fold_scale_shift.fold_into_producers(graph)
    if activations and not nested:
        hard_activations.fuse_into_contractions(graph)
    if not nested:
        fold_scale_shift.fold_into_consumers(graph, fused_nodes(graph))
    one_hot_to_gather.look_up(graph)
    dead_code.drop_identities(graph)
    constant_folding.carry_sizes(graph)
    dead_code.drop_unused(graph)


def store_compactly(graph: gs.Graph, source: onnx.ModelProto | None) -> None:
    """Store each constant once, and weights in as few bits as the source does; a subgraph leaves that to the whole."""
    if source is not None:
        write_quantized.restore(graph)
        constant_folding.share_constants(graph)
