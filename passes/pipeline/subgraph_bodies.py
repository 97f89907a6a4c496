"""Facts of the subgraphs of control flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.graph.editor import GraphEditor
from passes.graph.subgraphs import captured, replace_inside, subgraphs
from passes.graph.tensors import is_constant, shape_of
from passes.ops import rules
from passes.ops.control_flow import ControlFlow, Read
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Cuts
from passes.rewriting.storage_plan import StoragePlan


@dataclass(frozen=True)
class Enclosing:
    """The node that a subgraph belongs to, the facts of the graph that it stands in, and cuts made in all of these."""

    node: gs.Node
    facts: Facts
    cuts: Cuts


def analyse_body(body: gs.Graph, around: Enclosing, inside: dict[int, Facts] | None = None) -> Facts:
    """Facts of a subgraph that hold in every round; `inside`: those of its own subgraphs, by `id`."""
    op = rules(around.node)
    if not isinstance(op, ControlFlow):
        return dataflow.analyse(body, around.facts, inside)
    given = op.entering(around.node, around.facts)
    while True:  # ends: what is given only shrinks
        entering = {(body.inputs[i].name, a): known for (i, a), known in given.items()}
        found = dataflow.analyse(body, around.facts, inside, entering)
        kept = op.kept(around.node, body, given, found)
        if all(key in kept and (kept[key].mask == known.mask).all() for key, known in given.items()):
            break
        given = kept
    read = op.read_around(around.node, body, around.facts)
    while True:  # ends: what is read only grows
        dataflow.read_backward(body, found, read)
        again = op.read_again(around.node, body, read, found)
        if _same(read, again):
            return found
        read = again


def _same(one: Read, other: Read) -> bool:
    return all(
        axes.keys() == other[place].keys() and all((mask == other[place][axis]).all() for axis, mask in axes.items())
        for place, axes in one.items()
    )


def pick_what_is_read(graph: gs.Graph, plans: Mapping[int, StoragePlan]) -> None:
    """Give each subgraph, of which this is the plan by its `id`, the slices of outer tensors that it reads.

    Where these are all that the outer tensor comes to store, nothing is picked in the end.
    """
    editor = GraphEditor(graph)
    made: dict[tuple[str, int, bytes], gs.Variable] = {}
    for node in graph.nodes:
        for body in subgraphs(node):
            stored = plans[id(body)].stored
            for tensor in captured(node):
                if is_constant(tensor) or not any(t is tensor for inner in body.nodes for t in inner.inputs):
                    continue
                picked = tensor
                for axis in range(len(shape_of(tensor) or ())):
                    if (mask := stored.get((tensor.name, axis))) is None:
                        continue
                    key = picked.name, axis, mask.tobytes()
                    if key not in made:
                        read = np.flatnonzero(mask)
                        made[key] = editor.gather(picked, axis, read, f"{tensor.name}_read", before=node)
                    picked = made[key]
                if picked is not tensor:
                    replace_inside(body, tensor, picked)
    editor.finish()
