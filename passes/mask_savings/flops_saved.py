"""FLOPs of a masked graph, and how many each mask entry is worth: the cost model that training prunes by."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.attention.expose_heads import understood
from passes.cost import flops as cost
from passes.graph.tensors import Array, Index, describe, is_constant, is_float
from passes.mask_savings.entry_classes import kinds
from passes.mask_savings.fates import Fates, fates
from passes.model.bind import bind
from passes.model.exporting import exported
from passes.model.prepare import checked, prepared, simplified
from passes.ops import rules
from passes.pipeline.cleanup import clean
from passes.pipeline.control_flow import with_subgraphs
from passes.planning.apply import apply
from passes.planning.planner import PlanOptions, plan
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan

#: told how many evaluations are done, and of how many
Watch = Callable[[int, int], None]

_LARGE = 4_000_000  # elements: so many weights are not left to be collected at some time


def flops_by_mask(model: onnx.ModelProto, masks: Mapping[str, Array]) -> tuple[int, dict[str, Array]]:
    """FLOPs of the compiled graph at these masks, and what zeroing each further entry would save.

    masks: by the name of the graph input that it is bound to, 0/1 [channels]. The savings are exact differences,
    float64 [channels] by mask name, 0 for entries that are zero already. Entries of a mask that nothing in the graph
    tells apart share one evaluation, so the cost grows with the number of layers and not with that of channels.

    Raises KeyError if a name is not that of a graph input, GraphError if the graph is not valid.
    """
    ends = np.cumsum([0, *(len(mask) for mask in masks.values())])
    single = {name: np.arange(first, last) for name, first, last in zip(masks, ends[:-1], ends[1:], strict=True)}
    total, saved = flops_by_group(model, masks, single, single)
    return total, {name: saved[index] for name, index in single.items()}


@dataclass(frozen=True)
class Compiled:
    """What a compiled graph costs: FLOPs by node, and for each node those that it exchanges values with."""

    nodes: dict[str, int]
    near: dict[str, frozenset[str]]

    @property
    def flops(self) -> int:
        """Those of all nodes."""
        return sum(self.nodes.values())


@dataclass
class Counted:
    """What counts of one graph found, for the next one to begin with.

    compiled: graphs by the values of their masks, that of the last count of groups and those that were counted since.
    savings: by kind of group, what one saves and the nodes that this turns on. fates: how slices end.
    """

    compiled: dict[bytes, Compiled] = field(default_factory=dict)
    savings: dict[int, tuple[int, frozenset[str]]] = field(default_factory=dict)
    fates: Fates = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)

    def at(self, model: onnx.ModelProto, masks: Mapping[str, Array]) -> Compiled:
        """The compiled graph at these masks, compiled if it is not known yet."""
        key = _key(masks)
        if key not in self.compiled:
            self.compiled[key] = _compiled(bind(model, masks))
        return self.compiled[key]

    def move_to(self, masks: Mapping[str, Array], compiled: Compiled) -> None:
        """Forget what is saved where something costs something else now, and all graphs but this one."""
        changed = _changed(self._nodes, compiled.nodes)
        self.savings = {kind: saved for kind, saved in self.savings.items() if not changed & saved[1]}
        self.compiled, self._nodes = {_key(masks): compiled}, compiled.nodes


def flops_by_group(
    model: onnx.ModelProto,
    masks: Mapping[str, Array],
    groups: Mapping[str, Index],
    structure: Mapping[str, Index],
    counted: Counted | None = None,
    watch: Watch | None = None,
) -> tuple[int, Array]:
    """FLOPs of the compiled graph at these masks, and what zeroing each whole group would save.

    masks: as for `flops_by_mask`. groups: by mask name, int64 [channels], the group of each entry, -1 for entries that
    stay. structure: what `coupled` says of the masks. The savings are exact differences, float64 [groups], 0 for groups
    without an entry that is not zero. Groups that nothing in the graph tells apart share one evaluation, and those that
    `counted` knows from other masks of the same graph need none, where nothing has changed in their surroundings.
    watch: told after each evaluation how many are done, and of how many.

    Where groups divide what is coupled (a residual sum, say), like ones may differ after all: where constants are put
    back is decided for many channels at once, and by their order. The FLOPs at the masks are exact in any case.

    Raises as `flops_by_mask` does.
    """
    graph = prepared(bind(model, masks), keep=masks)  # a mask of ones is looked at as well
    found, plan = _planned(graph)
    counted = Counted() if counted is None else counted
    compiled = counted.at(model, masks)
    if not masks:
        return compiled.flops, np.zeros(0)
    group = np.concatenate([np.where(np.asarray(mask) != 0, groups[name], -1) for name, mask in masks.items()])
    counted.fates = counted.fates or fates(model, masks)
    kind_of = kinds(graph, found, plan, masks, group, structure, counted.fates)
    counted.move_to(masks, compiled)
    values = np.concatenate([np.asarray(mask) for mask in masks.values()])
    ends = np.cumsum([len(mask) for mask in masks.values()])[:-1]
    saved = np.zeros(max((int(g.max(initial=-1)) for g in groups.values()), default=-1) + 1)
    live = np.unique(group[group >= 0])
    # Nodes and tensors hold each other, so the weights of every graph would wait for a collection.
    large = sum(math.prod(t.dims) for t in model.graph.initializer) > _LARGE
    present = np.unique(kind_of[live])
    unknown = [kind for kind in present if kind not in counted.savings]
    for kind in set(present) - set(unknown):
        saved[live[kind_of[live] == kind]] = counted.savings[kind][0]
    for done, kind in enumerate(unknown, 1):
        alike = live[kind_of[live] == kind]
        trial = dict(zip(masks, np.split(np.where(group == alike[0], 0, values), ends), strict=True))
        without = _compiled(bind(model, trial))
        if large:
            gc.collect()
        saving, where = compiled.flops - without.flops, _changed(compiled.nodes, without.nodes)
        saved[alike] = saving
        if where:  # what saves nothing as yet has no surroundings by which to notice that it does
            around = frozenset().union(*(found.near.get(name, ()) for found in (compiled, without) for name in where))
            counted.savings[kind] = saving, where | around
        if watch is not None:
            watch(done, len(unknown))
    return compiled.flops, saved


def _changed(before: Mapping[str, int], after: Mapping[str, int]) -> frozenset[str]:
    """Names of the nodes whose FLOPs are not the same in both."""
    return frozenset(name for name, _ in before.items() ^ after.items())


def compiled_flops(model: onnx.ModelProto) -> int:
    """FLOPs of the compiled graph, without writing it."""
    return _compiled(model).flops


def _key(masks: Mapping[str, Array]) -> bytes:
    return b"".join(np.asarray(mask, np.float32).tobytes() for mask in masks.values())


def _compiled(model: onnx.ModelProto) -> Compiled:
    """The costs of what `shrink` makes of the graph, with its second thoughts, without writing it."""
    graph = checked(model)
    source = cost.of_graph(graph)
    result, params = _shrunk(model, simplified(graph))
    if params > source.params:
        result, _ = _shrunk(model, prepared(model), frugal=True)
    if result.flops > source.flops:
        graph = prepared(model)
        clean(graph)
        plain, _ = _costs(model, graph)
        result = min(result, plain, key=lambda costs: costs.flops)
    return result


def _shrunk(model: onnx.ModelProto, graph: gs.Graph, frugal: bool = False) -> tuple[Compiled, int]:
    """Costs and number of parameters of the model's graph with all gone that may go; the graph is changed in place."""
    apply(graph, *_planned(graph, frugal))
    clean(graph)
    return _costs(model, graph)


def _planned(graph: gs.Graph, frugal: bool = False) -> tuple[Facts, StoragePlan]:
    """What the compiler knows of the graph and makes of it."""
    found, _ = with_subgraphs(graph, understood(graph)[0])
    return found, plan(graph, found, PlanOptions(frugal=frugal))


def _costs(model: onnx.ModelProto, graph: gs.Graph) -> tuple[Compiled, int]:
    computing = [node for node in graph.nodes if not rules(node).moves]
    unknown = any(tensor.shape is None for node in computing for tensor in node.outputs)  # of nodes that were put in
    counts = cost.count(exported(graph, model)) if unknown else cost.of_graph(graph)
    flops: dict[str, int] = {}
    for node in counts.nodes:
        flops[node.name] = flops.get(node.name, 0) + node.flops
    return Compiled(flops, _near(graph, flops)), counts.params


def _near(graph: gs.Graph, flops: Mapping[str, int]) -> dict[str, frozenset[str]]:
    """For each node that costs something those whose values it reads or that read its own, moved or not."""
    tensors: dict[int, set[str]] = {}  # by the identity of a tensor, the nodes that write it or read it
    moving = []
    for node in graph.nodes:
        ends = [tensor for tensor in [*node.inputs, *node.outputs] if not is_constant(tensor) and is_float(tensor)]
        if flops.get(describe(node)):
            for tensor in ends:
                tensors.setdefault(id(tensor), set()).add(describe(node))
        else:
            moving.append(ends)
    for ends in moving:  # in the order of the graph, so that the last of several hands on what came to the first
        together = set().union(*(tensors.get(id(tensor), set()) for tensor in ends))
        tensors.update((id(tensor), together) for tensor in ends)
    near: dict[str, set[str]] = {}
    for names in tensors.values():
        for name in names:
            near.setdefault(name, set()).update(names)
    return {name: frozenset(names) for name, names in near.items()}
