"""FLOPs of a masked graph, and how many each mask entry is worth: the cost model that training prunes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes import cost, layout, rewrite
from passes.bind import bind
from passes.clean import clean, prepared
from passes.export import exported
from passes.facts import Facts
from passes.fates import Fates, fates
from passes.kinds import kinds
from passes.layout import Layout
from passes.ops import rules
from passes.tensors import Array, Index
from passes.understanding import understood, with_subgraphs


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


@dataclass
class Counted:
    """What counts of one graph found, for the next one to begin with.

    nodes: FLOPs by node at the masks of the last count. savings: by kind of group, what one saves and the nodes where.
    fates: how slices end.
    """

    nodes: dict[str, int] = field(default_factory=dict)
    savings: dict[int, tuple[int, frozenset[str]]] = field(default_factory=dict)
    fates: Fates = field(default_factory=dict)

    def move_to(self, nodes: dict[str, int]) -> None:
        """Forget what is saved at nodes that cost something else now."""
        changed = _changed(self.nodes, nodes)
        self.savings = {kind: saved for kind, saved in self.savings.items() if not changed & saved[1]}
        self.nodes = nodes


def flops_by_group(
    model: onnx.ModelProto,
    masks: Mapping[str, Array],
    groups: Mapping[str, Index],
    structure: Mapping[str, Index],
    counted: Counted | None = None,
) -> tuple[int, Array]:
    """FLOPs of the compiled graph at these masks, and what zeroing each whole group would save.

    masks: as for `flops_by_mask`. groups: by mask name, int64 [channels], the group of each entry, -1 for entries that
    stay. structure: what `coupled` says of the masks. The savings are exact differences, float64 [groups], 0 for groups
    without an entry that is not zero. Groups that nothing in the graph tells apart share one evaluation, and those that
    `counted` knows from other masks of the same graph need none, where nothing has changed in their surroundings.

    Where groups divide what is coupled (a residual sum, say), like ones may differ after all: where constants are put
    back is decided for many channels at once, and by their order. The FLOPs at the masks are exact in any case.

    Raises as `flops_by_mask` does.
    """
    bound = bind(model, masks)
    graph = prepared(bound, keep=masks)  # a mask of ones is looked at as well
    found, plan = _planned(graph)
    if not masks:
        return sum(_flops_by_node(bound, graph, found, plan).values()), np.zeros(0)
    group = np.concatenate([np.where(np.asarray(mask) != 0, groups[name], -1) for name, mask in masks.items()])
    counted = Counted() if counted is None else counted
    counted.fates = counted.fates or fates(model, masks)
    kind_of = kinds(graph, found, plan, masks, group, structure, counted.fates)  # before the graph is rewritten
    nodes = _flops_by_node(bound, graph, found, plan)
    counted.move_to(nodes)
    values = np.concatenate([np.asarray(mask) for mask in masks.values()])
    ends = np.cumsum([len(mask) for mask in masks.values()])[:-1]
    saved = np.zeros(max((int(g.max(initial=-1)) for g in groups.values()), default=-1) + 1)
    live = np.unique(group[group >= 0])
    for kind in np.unique(kind_of[live]):
        alike = live[kind_of[live] == kind]
        if kind in counted.savings:
            saved[alike] = counted.savings[kind][0]
            continue
        trial = dict(zip(masks, np.split(np.where(group == alike[0], 0, values), ends), strict=True))
        without = _compiled(bind(model, trial))
        saving, where = sum(nodes.values()) - sum(without.values()), _changed(nodes, without)
        saved[alike] = saving
        if where:  # what saves nothing as yet has no surroundings by which to notice that it does
            counted.savings[kind] = saving, where
    return sum(nodes.values()), saved


def _changed(before: Mapping[str, int], after: Mapping[str, int]) -> frozenset[str]:
    """Names of the nodes whose FLOPs are not the same in both."""
    return frozenset(name for name, _ in before.items() ^ after.items())


def compiled_flops(model: onnx.ModelProto) -> int:
    """FLOPs of the compiled graph, without writing it."""
    return sum(_compiled(model).values())


def _compiled(model: onnx.ModelProto) -> dict[str, int]:
    """FLOPs of the compiled graph by node, without writing it."""
    graph = prepared(model)
    return _flops_by_node(model, graph, *_planned(graph))


def _planned(graph: gs.Graph) -> tuple[Facts, Layout]:
    """What the compiler knows of the graph and makes of it."""
    found, _ = with_subgraphs(graph, understood(graph)[0])
    return found, layout.plan(graph, found)


def _flops_by_node(model: onnx.ModelProto, graph: gs.Graph, found: Facts, plan: Layout) -> dict[str, int]:
    rewrite.apply(graph, found, plan)
    clean(graph)
    computing = [node for node in graph.nodes if not rules(node).moves]
    unknown = any(tensor.shape is None for node in computing for tensor in node.outputs)  # of nodes that were put in
    counts = cost.count(exported(graph, model)) if unknown else cost.of_graph(graph)
    flops: dict[str, int] = {}
    for node in counts.nodes:
        flops[node.name] = flops.get(node.name, 0) + node.flops
    return flops
