"""Shapes of the states that loops hand on from round to round."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import Shape
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import shape_of
from passes.model.declarations import is_made_up
from passes.ops.control_flow import Rounds


def state_shapes(node: gs.Node, op: Rounds) -> Iterator[tuple[gs.Tensor, Shape]]:
    """The shapes of states that leave a loop, by the output; None for a size that a round may change.

    onnx infers none, as there may be any number of rounds. What it took for the shapes of the states that enter a round
    is true by induction, where the first round is given such ones, and each round hands such ones on.
    """
    (body,) = subgraphs(node)
    ports = op.ports(node, body)
    states = [
        (shape_of(node.inputs[given]), shape_of(body.inputs[entered]), shape_of(body.outputs[left]), outer)
        for (given, entered), (outer, left) in zip(ports.enter, ports.leave, strict=True)
    ]
    if all(_is_like(first, taken) and _is_like(later, taken) for first, taken, later, _ in states):
        for first, _, later, outer in states:
            if first is not None and later is not None and len(first) == len(later):
                yield node.outputs[outer], [a if a == b else None for a, b in zip(first, later, strict=True)]


def _is_like(shape: Shape | None, taken: Shape | None) -> bool:
    """Whether a shape has the rank and the sizes that another one says."""
    if taken is None:
        return True
    return (
        shape is not None
        and len(shape) == len(taken)
        and all(is_made_up(size) or size == dim for dim, size in zip(shape, taken, strict=True))
    )
