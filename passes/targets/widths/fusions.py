"""Patterns that runtimes fuse into one operator as they load a model: Gelu, x · sigmoid(x), normalisations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.graph.expression_match import ANY, Expression, X, match_around
from passes.graph.tensors import is_standard
from passes.simplify.decomposed_operators import gelu
from passes.targets.widths.operator_kernels import ChannelBlocks


@dataclass(frozen=True)
class Fusion:
    """Expressions that become one operator, whether it runs on NCHWc channel blocks, and how slow it is."""

    expressions: tuple[Expression, ...]
    channel_blocks: ChannelBlocks
    slowness: float


def _normalised(data: Expression) -> tuple[Expression, Expression]:
    """The data over the root of their mean square, and a number more, times a scale."""
    root = ("Sqrt", ("Add", ("ReduceMean", ("Pow", data, 2.0)), ANY))
    return ("Mul", ("Div", data, root), ANY), ("Mul", ("Mul", data, ("Div", 1.0, root)), ANY)


# By an operator that is in each of the expressions once.
_FUSIONS = {
    "Erf": Fusion(gelu.BY_ERF, "always", 4.0),
    "Tanh": Fusion(gelu.BY_TANH, "never", 8.0),
    "Sigmoid": Fusion((("Mul", X, ("Sigmoid", X)),), "always", 2.0),
    "Sqrt": Fusion((("Add", _normalised(("Sub", X, ("ReduceMean", X)))[0], ANY), *_normalised(X)), "never", 2.0),
}


def fusions(graph: gs.Graph) -> Iterator[tuple[Fusion, tuple[gs.Node, ...]]]:
    """What is fused in the graph: each time by which fusion, and the nodes, the last one last."""
    for node in graph.nodes:
        fusion = _FUSIONS.get(node.op) if is_standard(node) else None
        found = None if fusion is None else match_around(node, fusion.expressions)
        if fusion is not None and found is not None:
            yield fusion, found.nodes


def fused_nodes(graph: gs.Graph) -> set[int]:
    """The ids of all nodes that become one operator together with others."""
    return {id(node) for _, nodes in fusions(graph) for node in nodes}
