"""Which channels were masked, which of them went, and what holds the others."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_graphsurgeon as gs

from passes.facts import Facts
from passes.layout import Layout
from passes.ops import rules
from passes.report import Held, MaskedAxis
from passes.tensors import Mask, is_constant, shape_of


def explain(graph: gs.Graph, facts: Facts, layout: Layout) -> tuple[tuple[MaskedAxis, ...], tuple[Held, ...]]:
    """Masked axes and held channels, in the order of the graph.

    A channel is masked where it becomes constant: the operator that makes it so reads something that is not.
    """
    masked, held = [], []
    for node in graph.nodes:
        if rules(node).moves:
            continue
        for tensor in node.outputs:
            for axis in range(len(shape_of(tensor) or ())):
                known = facts.known(tensor, axis) if tensor.name in facts.constant else None
                if known is None or not known.mask.any():
                    continue
                born = known.mask & ~_inherited(node, facts, tensor, axis, known.mask)
                if not born.any():
                    continue
                stays = born & layout.stays(tensor.name, axis, born.size)
                masked.append(MaskedAxis(tensor.name, axis, born.size, int(born.sum()), int((born & ~stays).sum())))
                held += _holders(layout, tensor, axis, stays)
    return tuple(masked), tuple(held)


def _inherited(node: gs.Node, facts: Facts, tensor: gs.Tensor, axis: int, mask: Mask) -> Mask:
    """Slices that are constant because what they are computed from along this axis is."""
    output = next(i for i, t in enumerate(node.outputs) if t is tensor)
    inherited = np.zeros(mask.size, bool)
    for i, a in rules(node).carries(node, facts, output, axis):
        source = node.inputs[i]
        known = None if is_constant(source) else facts.known(source, a)
        if known is not None and known.mask.size == mask.size:
            inherited |= known.mask
    return inherited


def _holders(layout: Layout, tensor: gs.Tensor, axis: int, stays: Mask) -> list[Held]:
    why = layout.reason.get((tensor.name, axis), np.full(stays.size, -1))
    groups: dict[int, list[int]] = defaultdict(list)
    for channel in np.flatnonzero(stays):
        groups[int(why[channel])].append(int(channel))
    found = []
    for number, channels in groups.items():
        node, op, reason = layout.reasons[number] if number >= 0 else layout.otherwise
        found.append(Held(tensor.name, axis, tuple(channels), node, op, reason))
    return found
