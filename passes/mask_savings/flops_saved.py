"""FLOPs of a masked graph, and what each mask entry saves: the cost model that training prunes by."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.adapters.placement import Policy
from passes.cost import sum_over_nodes as cost
from passes.cost.counts import Cost
from passes.graph.tensors import Array, Index, describe, is_constant, is_float
from passes.mask_savings.mask_entry_equivalence import Zeroed, equivalence_classes, when_zeroed
from passes.model.graph_to_onnx import exported
from passes.model.inputs import bind
from passes.model.prepare import prepared
from passes.ops import rules
from passes.pipeline import order
from passes.pipeline.trace import Recorder
from passes.simplify.constant_folding import fold_constants

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
    sizes = {name: len(mask) for name, mask in masks.items()}
    single = split(np.arange(sum(sizes.values())), sizes)
    total, saved = flops_by_group(model, masks, single, single)
    return total, {name: saved[index] for name, index in single.items()}


@dataclass(frozen=True)
class CompiledCost:
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
    savings: by equivalence class of groups, what one saves and the nodes on which this depends. zeroed: what becomes of
    slices whose masks are zero.
    """

    compiled: dict[bytes, CompiledCost] = field(default_factory=dict)
    savings: dict[int, tuple[int, frozenset[str]]] = field(default_factory=dict)
    zeroed: Zeroed = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)

    def at(self, model: onnx.ModelProto, masks: Mapping[str, Array]) -> CompiledCost:
        """The compiled graph at these masks, compiled if it is not known yet."""
        key = _key(masks)
        if key not in self.compiled:
            self.compiled[key] = compiled_cost(bind(model, masks))
        return self.compiled[key]

    def move_to(self, masks: Mapping[str, Array], compiled: CompiledCost) -> None:
        """Forget what is saved where something costs something else now, and all graphs but this one."""
        changed = _changed(self._nodes, compiled.nodes)
        self.savings = {key: saved for key, saved in self.savings.items() if not changed & saved[1]}
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

    Where groups divide what is coupled (a residual sum, say), those of one class may differ after all: where constants
    are restored is decided for many channels at once, and by their order. The FLOPs at the masks are exact in any case.

    Raises as `flops_by_mask` does.
    """
    counted = Counted() if counted is None else counted
    compiled = counted.at(model, masks)
    if not masks:
        return compiled.flops, np.zeros(0)
    group = np.concatenate([np.where(np.asarray(mask) != 0, groups[name], -1) for name, mask in masks.items()])
    counted.zeroed = counted.zeroed or when_zeroed(model, masks)
    graph = prepared(bind(model, masks), keep=masks)  # a mask of ones is looked at as well
    planned = order.planned(graph, order.ShrinkOptions(explains=False), Recorder())
    class_of = equivalence_classes(graph, planned, masks, group, structure, counted.zeroed)
    counted.move_to(masks, compiled)
    values, sizes = np.concatenate(list(masks.values())), {name: len(mask) for name, mask in masks.items()}
    saved = np.zeros(max((int(g.max(initial=-1)) for g in groups.values()), default=-1) + 1)
    live = np.unique(group[group >= 0])
    # Nodes and tensors refer to each other, so the weights of every graph would wait for a collection.
    large = sum(math.prod(t.dims) for t in model.graph.initializer) > _LARGE
    present = np.unique(class_of[live])
    unknown = [key for key in present if key not in counted.savings]
    for key in set(present) - set(unknown):
        saved[live[class_of[live] == key]] = counted.savings[key][0]
    for done, key in enumerate(unknown, 1):
        alike = live[class_of[live] == key]
        without = compiled_cost(bind(model, split(np.where(group == alike[0], 0, values), sizes)))
        if large:
            gc.collect()
        saving, where = compiled.flops - without.flops, _changed(compiled.nodes, without.nodes)
        saved[alike] = saving
        if where:  # what saves nothing as yet has no surroundings by which to notice that it does
            around = frozenset().union(*(found.near.get(name, ()) for found in (compiled, without) for name in where))
            counted.savings[key] = saving, where | around
        if watch is not None:
            watch(done, len(unknown))
    return compiled.flops, saved


def compiled_cost(model: onnx.ModelProto, adapters: Policy = "auto") -> CompiledCost:
    """What the file costs that `shrink` makes of the model with this policy, without writing it."""

    def count(graph: gs.Graph) -> tuple[CompiledCost, Cost]:
        fold_constants(graph)  # as where a file is counted: weights may be stored in another form again
        computing = [node for node in graph.nodes if not rules(node).moves]
        unknown = any(tensor.shape is None for node in computing for tensor in node.outputs)  # of nodes that were added
        counts = cost.count(exported(graph, model)) if unknown else cost.of_graph(graph)
        flops: dict[str, int] = {}
        for node in counts.nodes:
            flops[node.name] = flops.get(node.name, 0) + node.flops
        return CompiledCost(flops, _near(graph, flops)), counts

    return order.compiled(model, order.ShrinkOptions(adapters, explains=False), count, Recorder()).written


def split(values: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """What belongs to each mask, of values for the entries of all."""
    return dict(zip(sizes, np.split(values, np.cumsum([*sizes.values()])[:-1]), strict=True)) if sizes else {}


def _changed(before: Mapping[str, int], after: Mapping[str, int]) -> frozenset[str]:
    """Names of the nodes whose FLOPs are not the same in both."""
    return frozenset(name for name, _ in before.items() ^ after.items())


def _key(masks: Mapping[str, Array]) -> bytes:
    return b"".join(np.asarray(mask, np.float32).tobytes() for mask in masks.values())


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
