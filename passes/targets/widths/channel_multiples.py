"""Channels that could be removed and stay after all, because a rounder width runs faster.

They are constant or have no reader, so the function is the same whether they are computed or not. A plan stores as
little as it can; some axes then have widths for which there are no fast kernels. Slices that are only stored together
(`coupled_slices.py`) get the same number of spare ones. The fastest numbers are searched by a table of rates
(`width_search.py`, `estimated_time.py`), the graph is planned again with them, and the plan that is estimated to be
faster is taken (`fastest_plan.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import describe, numpy_dtype
from passes.ops import rules
from passes.planning.planner import Planner, PlanOptions
from passes.rewriting.storage_plan import StoragePlan, everything
from passes.targets.widths.coupled_slices import CoupledSlices, SliceCoupling
from passes.targets.widths.fastest_plan import fastest_plan
from passes.targets.widths.rates import Rates, is_small
from passes.targets.widths.width_search import rounded

#: a multiple to round widths up to, rates to choose widths by, or all channels
Align = int | Rates | Literal["all"]

# Layers of fewer channels are no faster for being round (`benchmarks/cuda.py`), and grow by a larger share.
_NARROW = 16


@dataclass(frozen=True)
class Width:
    """A layer that computes more channels than it must: `kept` out of `total`, where `live` would do, and why."""

    node: str
    op: str
    live: int
    kept: int
    total: int
    reason: str


@dataclass(frozen=True)
class WiderPlan:
    """A plan with channel counts that kernels are faster with, and the layers that it concerns.

    speedup: the estimated time of the plan with the fewest channels over that of this one; None without an estimate.
    """

    plan: StoragePlan
    widths: tuple[Width, ...] = ()
    speedup: float | None = None


def widened(planner: Planner, plan: StoragePlan, align: Align, options: PlanOptions) -> WiderPlan:
    """The plan with wider axes where that is wanted or faster, and the layers that it concerns.

    `plan` was made with these options. With rates, no plan is returned that they say takes longer than `plan` does, nor
    than the graph with all of its channels, unless `always` asks for adapters; where `auto` wrote adapters, none is if
    that is faster, and channels that are constant maps are computed where that is faster than to add their
    contribution as a map.
    """
    speedup = None
    if align == "all":
        floor = everything(plan, "kept, because the model with fewer channels was measured to be slower")
        wider = planner.plan(options, floor)
    elif isinstance(align, Rates):
        wider, options, speedup = fastest_plan(planner, plan, align, options)
        if align.bytes_per_piece > 1 or (align.integers_per_piece > 1 and _makes_integers(planner.graph)):
            wider = _rounded(planner, wider, align, options)
    else:
        wider = _rounded(planner, plan, align, options)
    return WiderPlan(wider, tuple(_widths(planner.graph, plan, wider)), speedup)


def _rounded(planner: Planner, plan: StoragePlan, align: int | Rates, options: PlanOptions) -> StoragePlan:
    """The plan with widths that are multiples, as far as there are channels for it."""
    coupled = CoupledSlices(planner.graph, planner.facts, plan)
    extras = rounded(_written(planner.graph, coupled.found), _multiples(planner.graph, coupled.found, align))
    what = align if isinstance(align, int) else f"{max(align.bytes_per_piece, align.integers_per_piece)} bytes"
    reason = f"a multiple of {what}"
    return planner.plan(options, coupled.with_spare(extras, reason)) if extras else plan


def _written(graph: gs.Graph, couplings: list[SliceCoupling]) -> dict[int, SliceCoupling]:
    """Those with slices that some layer writes, by their numbers."""
    layers = {
        (node.outputs[0].name, axis % len(node.outputs[0].shape))
        for node in graph.nodes
        if (axis := rules(node).width_axis) is not None and node.outputs[0].shape
    }
    return {number: coupling for number, coupling in enumerate(couplings) if layers & coupling.slices_per_class.keys()}


def _multiples(graph: gs.Graph, couplings: list[SliceCoupling], align: int | Rates) -> dict[int, int]:
    """What the width of each coupling is rounded up to a multiple of: by the smallest elements that are stored so."""
    if isinstance(align, int):
        return dict.fromkeys(range(len(couplings)), align)
    types = {name: numpy_dtype(tensor) for name, tensor in graph.tensors().items() if tensor.dtype}
    found = ([align.multiple(types[name]) for name, _ in each.slices_per_class if name in types] for each in couplings)
    multiples = [max(each, default=align.multiple(np.dtype(np.float32))) for each in found]
    return {n: m if couplings[n].stored >= _NARROW else 1 for n, m in enumerate(multiples)}


def _makes_integers(graph: gs.Graph) -> bool:
    """Whether a node makes 8-bit numbers."""
    made = (tensor for node in graph.nodes for tensor in node.outputs if tensor.dtype)
    return any(is_small(numpy_dtype(tensor)) for tensor in made)


def _widths(graph: gs.Graph, before: StoragePlan, after: StoragePlan) -> Iterator[Width]:
    """The layers that are wider in the second plan."""
    for index, node in enumerate(graph.nodes):
        axis = rules(node).width_axis
        if axis is None or index not in after.computed or not node.outputs[0].shape:
            continue
        key = node.outputs[0].name, axis % len(node.outputs[0].shape)
        was = before.stored.get(key)
        if was is None:
            continue
        kept = int(after.stays(*key, was.size).sum())
        if kept > was.sum():
            reason = after.floor.why.get(
                key, "computed, because that is faster than restoring them where they are needed"
            )
            yield Width(describe(node), str(node.op), int(was.sum()), kept, was.size, reason)
