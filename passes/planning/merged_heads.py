"""Merged heads, read as they are: channels that only some heads keep are dropped by no Gather of its own.

A Gather takes as long as many multiply-adds for each channel that it moves. So what reads merged heads is given all
that they store, where that costs less, and weights that know their order.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.adapters.price import MOVED_ELEMENTS_PER_PIECE, flops_per_moved_element, piece_size
from passes.graph.tensors import Mask, shape_of, size_of, volume
from passes.ops import rules
from passes.ops.slice_gather import Gather
from passes.planning.planner import Planner, PlanOptions
from passes.rewriting.channel_order import Orders
from passes.rewriting.storage_plan import Key, StoragePlan


def reading_all(planner: Planner, plan: StoragePlan, options: PlanOptions, made: Collection[str]) -> StoragePlan:
    """The plan in which tensors that were `made` hold all that is stored of what they are made of, where it is cheaper.

    They hold the same channels, each by itself, or put in another order.
    """
    wider: dict[Key, Mask] = {}
    for node in planner.graph.nodes if options.adapters == "auto" else ():
        for output in node.outputs[:1]:
            goes_on = any(tensor.name in made for reader in output.outputs for tensor in reader.outputs)
            if output.name in made and not goes_on:
                wider |= _wider(planner, plan, node, made)
    return planner.plan(options, replace(plan.floor, stored={**plan.floor.stored, **wider})) if wider else plan


def _wider(planner: Planner, plan: StoragePlan, last: gs.Node, made: Collection[str]) -> dict[Key, Mask]:
    """What the tensors hold then that end with the output of a node; nothing where that is not cheaper."""
    chain = [last]
    while chain[0].inputs[0].name in made:
        chain.insert(0, chain[0].inputs[0].inputs[0])
    source, output = chain[0].inputs[0], last.outputs[0]
    axes = [axis for axis in range(len(shape_of(output) or ())) if (output.name, axis) in plan.stored]
    size = size_of(source, axes[0]) if len(axes) == 1 else None
    if size is None or output.name in plan.absent:
        return {}
    axis, held, wider = axes[0], plan.stays(source.name, axes[0], size), dict[Key, Mask]()
    order = np.arange(size)
    for node in chain:
        op = rules(node)
        picked = op.picked(node) if isinstance(op, Gather) else None
        if picked is not None and picked[0] == axis:
            held, order = held[picked[1]], order[picked[1]]
        wider[node.outputs[0].name, axis] = held
    orders, facts, end = Orders(planner.graph, rules), planner.facts, last
    while len(readers := end.outputs[0].outputs) == 1 and facts.aligned(readers[0]).get(axis) == {0: axis}:
        end = readers[0]
        wider[end.outputs[0].name, axis] = held
    left = plan.stays(output.name, axis, order.size)
    needless = np.count_nonzero(held & ~left)
    moves = (order != np.arange(order.size)).any()
    if not needless or not left.any() or (moves and orders.read(output, axis, order) is None):
        return {}
    demands = [
        rules(reader).required_inputs(reader, facts, {}).get((place, axis))
        for reader in end.outputs[0].outputs
        for place, tensor in enumerate(reader.inputs)
        if tensor is end.outputs[0]
    ]
    reading = needless * sum(demand.flops for demand in demands if demand is not None)
    pieces = 1 + MOVED_ELEMENTS_PER_PIECE / piece_size(shape_of(output) or (), axis)
    moving = flops_per_moved_element("auto") * pieces * volume(output) / order.size * np.count_nonzero(left)
    cheap = bool(demands) and all(demand is not None and demand.flexible for demand in demands) and reading < moving
    return wider if cheap else {}
