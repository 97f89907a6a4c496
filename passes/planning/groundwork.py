"""What the plans of one analysed graph have in common: looked up once, and remembered from one plan to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Demands, Sets
from passes.cost.tokens_per_example import multiples, repeated
from passes.graph.subgraphs import captured
from passes.graph.tensors import Mask, all_set, is_constant, present, shape_of
from passes.ops import rules
from passes.planning.upstream_cost import UpstreamCost
from passes.rewriting.channel_facts import Facts


class Groundwork:
    """A graph with its facts, and what plans of it found out.

    `chosen` are the sets that were cheapest, by all that they depend on; no one changes them.
    """

    def __init__(self, graph: gs.Graph, facts: Facts) -> None:
        self.graph = graph
        self.facts = facts
        self.multiples = multiples(graph, facts)
        self.upstream = UpstreamCost(graph, facts, self.multiples)
        self.nodes = [Planned(node, facts, self.multiples) for node in graph.nodes]
        self.chosen: dict[object, Mask] = {}
        self._symbols = {d for t in graph.inputs for d in shape_of(t) or () if isinstance(d, str)}

    def is_made_of_constants(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether constants along the axis make the tensor: its other sizes are known or those of graph inputs."""
        others = [d for a, d in enumerate(shape_of(tensor) or ()) if a != axis]
        return all(isinstance(d, int) or d in self._symbols for d in others)


class Planned:
    """A node to be planned, with its operator and operands.

    inputs: of each operand its place, the tensor, whether it is a constant, and its axes: number, size, and whether
    constants are known along it. times: how many examples its cost is to be taken for.
    """

    def __init__(self, node: gs.Node, facts: Facts, found: Mapping[str, int]) -> None:
        self.node, self.op = node, rules(node)
        self.captured = captured(node)
        self.outputs = [t for t in node.outputs if not t.is_empty()]
        self.inputs = [
            (i, t, is_constant(t), [(a, size, facts.constants(t, a) is not None) for a, size in facts.axes(t)])
            for i, t in present(node.inputs)
        ]
        self.times = repeated(node.outputs[0], found)
        self._facts = facts
        self._answers: dict[object, tuple[Sets, Demands]] = {}
        self._arriving: dict[tuple[int, int], list[tuple[gs.Tensor, int, Mask]]] = {}

    def stored(self, asked: Sets, *, intact: bool) -> tuple[Sets, Demands]:
        """What the outputs store when this is asked of them, and what that demands of the inputs.

        intact: the node is left as it is.
        """
        key = intact, *((*at, mask.tobytes()) for at, mask in asked.items())
        if key not in self._answers:
            node, facts = self.node, self._facts
            stored = narrowed(self.op.storable_outputs(node, facts, {} if intact else narrowed(asked)))
            self._answers[key] = stored, {} if intact else self.op.required_inputs(node, facts, stored)
        return self._answers[key]

    def arriving(self, output: int, axis: int, size: int) -> list[tuple[gs.Tensor, int, Mask]]:
        """Inputs and axes as wide as the output, with the output slices that come from what is live there."""
        if (output, axis) not in self._arriving:
            self._arriving[output, axis] = list(self._live(output, axis, size))
        return self._arriving[output, axis]

    def _live(self, output: int, axis: int, size: int) -> Iterator[tuple[gs.Tensor, int, Mask]]:
        node, facts = self.node, self._facts
        for i, a in self.op.carries(node, facts, output, axis):
            source = node.inputs[i]
            if is_constant(source) or facts.size(source, a) != size:
                continue
            live = facts.live(source, a)
            dependence = facts.dependence.get((source.name, a))
            if dependence is not None:  # any of these slices could have been the representative
                live = live.copy()
                live[dependence.reps] = False
            for link in facts.links(node):
                if (link.input, link.input_axis, link.output, link.output_axis) == (i, a, output, axis):
                    live = link.forward(live, size)
            yield source, a, live

    def added(self, output: int, axis: int, size: int) -> Mask:
        """Slices that a mover of data adds on its own, as padding: nothing upstream is computed for them."""
        links = [k for k in self._facts.links(self.node) if (k.output, k.output_axis) == (output, axis)]
        if not self.op.moves or not links:
            return np.zeros(size, bool)
        sizes = [self._facts.size(self.node.inputs[k.input], k.input_axis) or 0 for k in links]
        moved = [k.forward(np.ones(n, bool), size) for k, n in zip(links, sizes, strict=True)]
        return np.asarray(~np.logical_or.reduce(moved))


def narrowed(sets: Sets) -> Sets:
    """Those that are not whole."""
    return {key: mask for key, mask in sets.items() if not all_set(mask)}
