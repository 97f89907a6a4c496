"""Shapes of the states that loops hand on from round to round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import Shape
from passes.graph.subgraphs import subgraphs, with_bodies
from passes.graph.tensors import Dim, shape_of
from passes.model.declarations import is_made_up
from passes.ops import rules
from passes.ops.control_flow import Rounds


class Suppositions:
    """Sizes that the bodies of loops do not declare of their states, supposed to be those of the first round.

    What a round hands on under all of them confirms them, by induction, or else refutes some.
    """

    def __init__(self) -> None:
        self._supposed: dict[int, set[int]] = {}  # axes, by the tensor that enters a round
        self._refuted: set[tuple[int, int | None]] = set()  # the same, None for the rank

    def revised(self, graph: gs.Graph) -> bool:
        """Take back what is refuted, or else suppose more; whether shapes must be inferred again."""
        rounds = [(n, op) for g in with_bodies(graph) for n in g.nodes if isinstance(op := rules(n), Rounds)]
        states = [state for node, op in rounds for state in _states(node, op)]
        return sum(map(self._takes_back, states)) > 0 or sum(map(self._supposes, states)) > 0

    def _takes_back(self, state: _State) -> bool:
        entered, left, axes = state.entered, shape_of(state.left), self._supposed.get(id(state.entered))
        if axes is None:
            return False
        shape = entered.shape or ()
        if left is None or len(left) != len(shape):
            entered.shape = None
            del self._supposed[id(entered)]
            self._refuted.add((id(entered), None))
            return True
        wrong = {axis for axis in axes if left[axis] != shape[axis]}
        self._refuted |= {(id(entered), axis) for axis in wrong}
        axes -= wrong
        entered.shape = [None if axis in wrong else dim for axis, dim in enumerate(shape)]
        return bool(wrong)

    def _supposes(self, state: _State) -> bool:
        entered, first = state.entered, shape_of(state.given)
        if first is None or (id(entered), None) in self._refuted:
            return False
        shape: list[Dim] = [None] * len(first) if entered.shape is None else [*entered.shape]
        if len(shape) != len(first):
            return False
        told = {
            axis
            for axis, (dim, known) in enumerate(zip(shape, first, strict=True))
            if (dim is None or is_made_up(dim)) and not (known is None or is_made_up(known))
        } - {axis for tensor, axis in self._refuted if tensor == id(entered)}
        new = entered.shape is None or bool(told)
        self._supposed.setdefault(id(entered), set()).update(told)
        entered.shape = [first[axis] if axis in told else dim for axis, dim in enumerate(shape)]
        return new


@dataclass(frozen=True)
class _State:
    """A state of a loop: as the first round is given it, as it enters a round, leaves it, and leaves the loop."""

    given: gs.Tensor
    entered: gs.Variable
    left: gs.Tensor
    output: gs.Tensor


def _states(node: gs.Node, op: Rounds) -> Iterator[_State]:
    (body,) = subgraphs(node)
    ports = op.ports(node, body)
    for (given, inner), (outer, left) in zip(ports.enter, ports.leave, strict=True):
        entered = body.inputs[inner]
        assert isinstance(entered, gs.Variable)
        yield _State(node.inputs[given], entered, body.outputs[left], node.outputs[outer])


def state_shapes(node: gs.Node, op: Rounds) -> Iterator[tuple[gs.Tensor, Shape]]:
    """The shapes of states that leave a loop, by the output; None for a size that a round may change.

    onnx infers none, as there may be any number of rounds. What it took for the shapes of the states that enter a round
    is true by induction, where the first round is given such ones, and each round hands such ones on.
    """
    states = [(shape_of(s.given), shape_of(s.entered), shape_of(s.left), s.output) for s in _states(node, op)]
    if all(_is_like(first, taken) and _is_like(later, taken) for first, taken, later, _ in states):
        for first, _, later, output in states:
            if first is not None and later is not None and len(first) == len(later):
                yield output, [a if a == b else None for a, b in zip(first, later, strict=True)]


def _is_like(shape: Shape | None, taken: Shape | None) -> bool:
    """Whether a shape has the rank and the sizes that another one says."""
    if taken is None:
        return True
    return (
        shape is not None
        and len(shape) == len(taken)
        and all(is_made_up(size) or size == dim for dim, size in zip(shape, taken, strict=True))
    )
