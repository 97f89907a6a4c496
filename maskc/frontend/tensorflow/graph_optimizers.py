"""The optimizers of tf2onnx that are run over a converted graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskc.frontend.tensorflow.canonical_order import uncounted


def optimizers(rearranged: bool = True) -> dict[str, Any]:
    """The argument `optimizers` of `tf2onnx.optimizer.optimize_graph`; if nothing is to be rearranged, the one that
    removes Identity nodes, some of which are not valid as they are.

    Left out is the one for Einsum, which takes half a minute for one attention layer; products are converted as such
    to begin with. Those that merge nodes and move Transposes are kept from mistakes.
    """
    from tf2onnx import optimizer
    from tf2onnx.optimizer.back_to_back_optimizer import BackToBackOptimizer
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    class Merger(BackToBackOptimizer):  # type: ignore[misc]
        """Merges two Reshapes only where the second does not copy sizes (0) from the first."""

        def _optimize_at_current_graph_level(self, graph: Any) -> Any:
            copying = [node for node in graph.get_nodes() if node.type == "Reshape" and _copies(graph, node)]
            for node in copying:
                node.type = "Copying"  # not to be seen
            try:
                return super()._optimize_at_current_graph_level(graph)
            finally:
                for node in copying:
                    node.type = "Reshape"

    class Mover(TransposeOptimizer):  # type: ignore[misc]
        """Makes a bias of a convolution only of what is added along its channels; it would fail at a single number."""

        def _add_handler(self, transpose: Any, node: Any) -> Any:
            added = node.inputs[1]
            if added.is_const() and not _along_channels(added.get_tensor_value(as_list=False).shape):
                return self._handle_node_having_branches(transpose, node)
            layer = transpose.inputs[0].name
            moved = super()._add_handler(transpose, node)
            if self._g.get_node_by_name(layer) is None:  # replaced by one with a bias, which has a made-up name
                self._g.change_node_name(transpose.inputs[0], layer)
            return moved

    chosen = dict(optimizer._get_optimizers())
    del chosen["einsum_optimizer"]
    chosen["remove_back_to_back"] = Merger
    chosen["optimize_transpose"] = Mover
    if not rearranged:
        chosen = {name: factory for name, factory in chosen.items() if name == "remove_identity"}
    return {name: _ordered(factory) for name, factory in chosen.items()}


def _ordered(factory: Any) -> Any:
    """An optimizer that finds the nodes in the order of their names: where it has a choice, it is always the same.

    It does not write every node's attributes into its proto afterwards, which copies all weights and is done once more
    at the end, except where there are subgraphs, whose protos are made then.
    """

    class Ordered(factory):  # type: ignore[misc]
        def optimize(self, graph: Any, iteration: int) -> Any:
            self.opt_iteration = iteration
            graph = self._optimize(graph)
            if any(node.get_body_graphs() for node in graph.get_nodes()):
                graph.update_proto()
            graph.delete_unused_nodes(graph.outputs)
            return graph

        def _apply_optimization(self, graph: Any, step: Any) -> Any:
            def ordered(level: Any) -> Any:
                sort(level)  # at each level: work on the outer graph shuffles the nodes of those inside it
                return step(level)

            return super()._apply_optimization(graph, ordered)

    return Ordered


def sort(graph: Any) -> None:
    """Order the nodes of a tf2onnx graph, and of graphs inside it, by their names; tf2onnx keeps them in sets."""
    graph.reset_nodes(sorted(graph.get_nodes(), key=lambda node: (uncounted(node.name), len(node.name), node.name)))
    for node in graph.get_nodes():
        for body in (node.get_body_graphs() or {}).values():
            sort(body)


def _along_channels(shape: tuple[int, ...]) -> bool:
    """Whether a constant of this shape differs along the last axis only, and has one."""
    return bool(shape) and shape[-1] == np.prod(shape)


def _copies(graph: Any, node: Any) -> bool:
    """Whether a Reshape copies sizes of a tensor that another Reshape may have given other sizes."""
    shape = node.inputs[1]
    zeros = np.flatnonzero(shape.get_tensor_value(as_list=False) == 0) if shape.is_const() else np.zeros(0)
    if not zeros.size or node.inputs[0].type != "Reshape":
        return False
    # A first size stays what it is where all others are known and come to as much as before.
    rests = [(graph.get_shape(name) or [-1, -1])[1:] for name in (node.inputs[0].input[0], node.input[0])]
    same = all(-1 not in rest for rest in rests) and np.prod(rests[0]) == np.prod(rests[1])
    return not (same and list(zeros) == [0])
