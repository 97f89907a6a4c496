"""The plan of a graph: what each tensor stores and what each consumer is given, under a policy for adapters."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.adapters.placement import Policy, flops_per_moved_element
from passes.planning.cheapest_storage import cheapest
from passes.planning.without_adapters import without_adapters
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StorageFloor, StoragePlan


@dataclass(frozen=True)
class PlanOptions:
    """What a plan may do.

    adapters: `auto` restores constants at a consumer's input where that costs less than computing them; `always` takes
    adapters to cost nothing, so that the fewest FLOPs are left; `never` writes none: the producers compute what their
    consumers require. A tensor that is constant altogether is a constant operand in any case. frugal: no constant map
    is stored that takes more than the weights that make it.
    """

    adapters: Policy = "auto"
    frugal: bool = False


def plan(
    graph: gs.Graph, facts: Facts, options: PlanOptions = PlanOptions(), floor: StorageFloor | None = None
) -> StoragePlan:
    """What each tensor of an analysed graph stores; `floor` in any case.

    Raises ValueError for a policy that there is not.
    """
    price = flops_per_moved_element(options.adapters)
    floor = floor or StorageFloor()
    if options.adapters == "never":
        return without_adapters(graph, facts, price, floor, frugal=options.frugal)
    return cheapest(graph, facts, price, floor, frugal=options.frugal)
