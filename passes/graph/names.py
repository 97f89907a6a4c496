"""Names for new tensors and nodes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph.subgraphs import subgraphs


class Names:
    """Names that nothing in a graph has, subgraphs included; the same graph gives the same names."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._taken: set[str] = set()

    def _collect(self, graph: gs.Graph) -> None:
        self._taken.update(t.name for t in [*graph.inputs, *graph.outputs])
        for node in graph.nodes:
            self._taken.add(node.name)
            self._taken.update([t.name for t in node.inputs], [t.name for t in node.outputs])
            for inner in subgraphs(node):
                self._collect(inner)

    def fresh(self, hint: str) -> str:
        """`hint`, with a number after it if it is taken."""
        if not self._taken:  # most never make a name
            self._collect(self._graph)
        name, number = hint, 0
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name
