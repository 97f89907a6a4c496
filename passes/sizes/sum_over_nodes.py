"""FLOPs, MACs and parameters of a graph, by the operators' own rules."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeGuard

import onnx
import onnx_graphsurgeon as gs

from passes.errors.arguments import typed
from passes.graph.construct import take_apart
from passes.graph.subgraphs import subgraphs, with_bodies
from passes.graph.tensors import describe, is_constant, is_float, present, size_of
from passes.ops import rules
from passes.ops.control_flow import Rounds
from passes.ops.movement import Movement
from passes.sizes.cost_values import Cost, NodeCost
from passes.sizes.prepare import shaped
from passes.sizes.sizes_to_count_at import Sizes, at_sizes


@typed
def count(model: onnx.ModelProto, graph: gs.Graph | None = None, at: Sizes | None = None) -> Cost:
    """Cost of a model; `Cost.at` says at which sizes of its inputs.

    FLOPs: matrix products `m n (2k - 1)`, convolutions `output elements · (2 · kernel · in / groups - 1)`, one more
    per output element where a bias is added, elementwise operators one per output element, data movement none.
    Parameters: elements of the floating-point and 8-bit initializers. Of the branches of an If the dearest counts, of a
    Loop or Scan as many rounds as a constant or the sizes say, and one where they do not.

    graph: that of the model, if available; it is changed. at: sizes for what the inputs leave open, by input
    name; those that are not given are chosen (`sizes_to_count_at` says how).

    Raises GraphError when the shapes contradict each other, and SizeError for sizes that do not fit the model.

    >>> count(model, at={"image": (1, 224, 224, 3)}).at.sizes  # doctest: +SKIP
    {'image': (1, 224, 224, 3)}
    """
    own = shaped(model, graph)
    cost = of_shaped(model, own, at)
    if graph is None:
        take_apart(own)
    return cost


def of_shaped(model: onnx.ModelProto, graph: gs.Graph, at: Sizes | None = None) -> Cost:
    """`count`, for a graph of the model that carries its shapes; it is left as it is."""
    sized, cost = graph_and_cost(model, graph, at)
    if sized is not graph:
        take_apart(sized)
    return cost


def graph_and_cost(
    model: onnx.ModelProto, graph: gs.Graph, at: Sizes | None = None, *, fits: bool = False
) -> tuple[gs.Graph, Cost]:
    """As `of_shaped`, with the graph at the sizes that are counted at, which is the given one where no size is open.

    fits: as for `at_sizes`.
    """
    sized, found = at_sizes(model, graph, at, fits=fits)
    cost = replace(of_graph(sized), at=found)
    # at sizes that are fixed more can be folded than the file does
    return sized, cost if sized is graph else replace(cost, params=params_of(graph))


def of_graph(graph: gs.Graph) -> Cost:
    """Cost of a graph whose tensors carry their shapes; dimensions without a size count as 1."""
    nodes = []
    weights: dict[int, int] = {}
    made: set[int] = set()
    passed: dict[int, int] = {}  # weights that only make others of them, by the tensor that is made
    for node in graph.nodes:
        op = rules(node)
        flops, macs = _work(node)
        width, reads = (None, None) if op.width_axis is None else _widths(node, op.width_axis)
        inside = [n for body in subgraphs(node) for scope in with_bodies(body) for n in scope.nodes]
        read = [*node.inputs, *(t for n in inside for t in n.inputs)] if inside else node.inputs
        new = {id(t): math.prod(t.shape) for t in read if _is_weight(t) and id(t) not in weights}
        weights |= new
        params = sum(new.values())
        if passed:
            params += sum(passed.pop(id(t), 0) for t in node.inputs)
        of_weights = all(is_constant(t) or id(t) in made for _, t in present(node.inputs))
        if params and of_weights and isinstance(op, Movement) and node.outputs[0].outputs:
            made.add(id(node.outputs[0]))
            passed[id(node.outputs[0])], params = params, 0
        nodes.append(NodeCost(describe(node), str(node.op), flops, macs, width, params, reads))
    return Cost(
        flops=sum(n.flops for n in nodes),
        macs=sum(n.macs for n in nodes),
        params=sum(weights.values()),
        nodes=tuple(nodes),
    )


def params_of(graph: gs.Graph) -> int:
    """The parameters of a graph, as `of_graph` counts them."""
    nodes = (node for scope in with_bodies(graph) for node in scope.nodes)
    weights = {id(t): math.prod(t.shape) for node in nodes for t in node.inputs if _is_weight(t)}
    return sum(weights.values())


def flops_of(graph: gs.Graph) -> int:
    """The FLOPs of a graph, as `of_graph` counts them."""
    return sum(_work(node)[0] for node in graph.nodes)


def _work(node: gs.Node) -> tuple[int, int]:
    """FLOPs and MACs of a node, those of all rounds of its subgraphs, or of the dearest of them, included."""
    op = rules(node)
    flops, macs = op.cost(node)
    bodies = subgraphs(node)
    if bodies:
        inside = [[_work(n) for n in body.nodes] for body in bodies]
        rounds = op.rounds(node) if isinstance(op, Rounds) else None
        times = 1 if rounds is None else rounds
        flops += times * max(sum(f for f, _ in costs) for costs in inside)
        macs += times * max(sum(m for _, m in costs) for costs in inside)
    return int(flops), int(macs)


def _widths(node: gs.Node, axis: int) -> tuple[int | None, int | None]:
    """The channels that a layer writes and those of its first input; None where that does not say, or is not static."""
    stored = filters(node)
    width = stored or size_of(node.outputs[0], axis)
    several_positions = stored is not None
    return width, None if several_positions or node.attrs.get("transA") else size_of(node.inputs[0], axis)


def _is_weight(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    return is_constant(tensor) and (is_float(tensor) or tensor.dtype.itemsize == 1)


# The operators that make weights for several positions of those that are stored, the last first.
_MADE_BY = ("Reshape", "Transpose", "Gather", "Pad")


def filters(node: gs.Node) -> int | None:
    """The stored filters of a convolution that computes several positions as further filters; None for any other."""
    tensor = node.inputs[1] if len(node.inputs) > 1 else None
    for op in _MADE_BY:
        if tensor is None or not tensor.inputs or tensor.inputs[0].op != op:
            return None
        tensor = tensor.inputs[0].inputs[0]
    return int(tensor.shape[0]) if tensor is not None and is_constant(tensor) else None
