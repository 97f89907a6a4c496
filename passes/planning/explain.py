"""Which channels were masked, which of them went, and what holds the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.adapters.placement import Policy
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import Mask, describe, is_constant, shape_of
from passes.ops import UNKNOWN, rules
from passes.ops.convolution import Convolution, group_size
from passes.ops.shape import Reshape
from passes.planning.writers import writers
from passes.results import Held, MaskedAxis
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan


def explain(
    graph: gs.Graph,
    facts: Facts,
    layout: StoragePlan,
    adapters: Policy = "auto",
    made: Collection[str] = (),
) -> tuple[tuple[MaskedAxis, ...], tuple[Held, ...]]:
    """Masked axes and held channels, in the order of the graph; `adapters` is the policy of the layout.

    Tensors named in `made` are not the model's own, and nothing is masked there.

    A channel is masked where it becomes constant: the operator that makes it so reads something that is not.
    """
    masked: list[MaskedAxis] = []
    held: list[Held] = []
    holders = {describe(node): node for node in reversed(graph.nodes)}
    for node in graph.nodes:
        if rules(node).moves:
            continue
        for tensor in node.outputs:
            for axis in range(len(shape_of(tensor) or ())) if tensor.name not in made else ():
                known = facts.known(tensor, axis) if tensor.name in facts.constant else None
                if known is None or not known.mask.any():
                    continue
                born = known.mask & ~_inherited(node, facts, tensor, axis, known.mask)
                if not born.any():
                    continue
                stays = born & layout.stays(tensor.name, axis, born.size)
                channels = tuple(np.flatnonzero(born).tolist())
                removed = int((born & ~stays).sum())
                masked.append(MaskedAxis(tensor.name, axis, born.size, len(channels), removed, channels))
                held += _held(facts, layout, holders, adapters, tensor, axis, stays)
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


def _held(
    facts: Facts,
    layout: StoragePlan,
    holders: dict[str, gs.Node],
    adapters: Policy,
    tensor: gs.Tensor,
    axis: int,
    stays: Mask,
) -> Iterator[Held]:
    """The channels that stay, by what holds them and who else writes them there."""
    why = layout.reason.get((tensor.name, axis), np.full(stays.size, -1))
    for number in dict.fromkeys(why[stays].tolist()):
        channels = np.flatnonzero(stays & (why == number))
        label, op, reason = layout.reasons[number] if number >= 0 else layout.otherwise
        holder, aligned = holders.get(label), number in layout.aligned
        for writer, some in writers(holder, facts, tensor, axis, channels):
            if aligned:
                advice = "compile with `--align none`, which leaves fewer FLOPs"
            else:
                advice = "share the mask or mask both" if writer else _advice(holder, op, adapters)
            yield Held(tensor.name, axis, tuple(some.tolist()), label, op, reason, writer, advice, aligned)


def _advice(holder: gs.Node | None, op: str, adapters: Policy) -> str:
    """What a person can do so that channels go that an operator holds; "" where nothing is known to help."""
    if op == "output":
        return "an output keeps its size: take the channels out of it where the model is made"
    ways = []
    if holder is not None and subgraphs(holder):
        ways.append("choose the branch, or unroll the loop, before exporting")
    elif holder is not None and rules(holder) is UNKNOWN:
        ways.append("give the operator a rule (docs/custom-operators.md), or put the mask behind it")
    elif holder is not None and isinstance(rules(holder), Reshape):
        ways.append("mask whole parts of the axis that is split (heads, say), or the same places in each of them")
    elif holder is not None and isinstance(rules(holder), Convolution) and group_size(holder) > 1:
        ways.append("mask whole groups, or equally many channels in each")
    if adapters != "always":
        ways.append("compile with `--adapters always` to have the constants put back there and not computed")
    return ", or ".join(ways)
