"""Shapes of the states that loops hand on from round to round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import Shape
from passes.graph.subgraphs import Body, subgraphs, with_bodies
from passes.graph.tensors import Dim, shape_of
from passes.model.declarations import is_made_up
from passes.ops import rules
from passes.ops.control_flow import Rounds


class Suppositions:
    """Sizes that the bodies of loops do not declare of their states, supposed to be those of the first round.

    So is all of a shape that is declared with another rank than the first round is given.

    What a round hands on under all of them confirms them, by induction, or else refutes some.
    """

    def __init__(self) -> None:
        # axes, and None for the rank, by the tensor that enters a round
        self._supposed: defaultdict[int, set[int | None]] = defaultdict(set)
        self._refuted: defaultdict[int, set[int | None]] = defaultdict(set)

    def revised(self, graph: gs.Graph) -> bool:
        """Take back what is refuted, or else suppose more; whether shapes must be inferred again."""
        rounds = [(n, op) for g in with_bodies(graph) for n in g.nodes if isinstance(op := rules(n), Rounds)]
        states = [state for node, op in rounds for state in _states(node, op)]
        return sum(map(self._takes_back, states)) > 0 or sum(map(self._supposes, states)) > 0

    def _takes_back(self, state: _State) -> bool:
        entered, left, supposed = state.entered, shape_of(state.left), self._supposed[id(state.entered)]
        shape = entered.shape or ()
        alike = left is not None and len(left) == len(shape)
        kept = {axis for axis, size in enumerate(left or ()) if size == shape[axis]} | {None} if alike else set()
        wrong = supposed - kept
        if not wrong:
            return False
        supposed -= wrong
        self._refuted[id(entered)] |= wrong
        entered.shape = None if None in wrong else [None if axis in wrong else dim for axis, dim in enumerate(shape)]
        return True

    def _supposes(self, state: _State) -> bool:
        entered, first, refuted = state.entered, shape_of(state.given), self._refuted[id(state.entered)]
        if first is None or None in refuted:
            return False
        told: set[int | None] = set()
        shape: list[Dim] = [None] * len(first)
        if entered.shape is not None and len(entered.shape) == len(first):
            shape = [*entered.shape]
        else:
            state.body.declared[state.place] = None
            told.add(None)
        told |= {axis for axis, dim in enumerate(shape) if is_made_up(dim) and not is_made_up(first[axis])} - refuted
        supposed = self._supposed[id(entered)]
        if told <= supposed:  # inference does not keep it
            refuted |= told
            return False
        supposed |= told
        entered.shape = [first[axis] if axis in told else dim for axis, dim in enumerate(shape)]
        return True


@dataclass(frozen=True)
class _State:
    """A state of a loop: as the first round is given it, as it enters a round, leaves it, and leaves the loop."""

    given: gs.Tensor
    entered: gs.Variable
    body: Body
    place: int  # among the outputs of the body
    output: gs.Tensor

    @property
    def left(self) -> gs.Tensor:
        return self.body.outputs[self.place]


def _states(node: gs.Node, op: Rounds) -> Iterator[_State]:
    (body,) = subgraphs(node)
    ports = op.ports(node, body)
    for (given, inner), (outer, place) in zip(ports.enter, ports.leave, strict=True):
        entered = body.inputs[inner]
        assert isinstance(entered, gs.Variable) and isinstance(body, Body)
        yield _State(node.inputs[given], entered, body, place, node.outputs[outer])


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
    if taken is None or shape is None or len(shape) != len(taken):
        return taken is None
    return all(is_made_up(size) or size == dim for dim, size in zip(shape, taken, strict=True))
