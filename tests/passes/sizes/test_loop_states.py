"""Shapes of the states of loops, and FLOPs of what follows."""

import numpy as np
import pytest

from passes import count
from passes.graph.subgraphs import subgraphs
from passes.model.declarations import is_made_up
from passes.model.onnx_to_graph import imported
from passes.sizes.loop_states import Suppositions
from passes.sizes.prepare import checked
from tests.passes.text import model

#: the state as it is declared, what a round makes of it, and which sizes are known after the loop
ROUNDS = [
    ("float[N,4] s", "t = MatMul(s, square)", ("N", 4)),
    ("float[?,?] s", "t = MatMul(x, square)", ("N", 4)),
    ("float[?,4] s", "t = MatMul(s, square)", ("N", 4)),
    ("float[] s", "t = MatMul(s, square)", ("N", 4)),
    ("float[] s", "t = Concat<axis=0>(s, s)", (None, 4)),
    ("float[] s", "t = Concat<axis=1>(s, s)", ("N", None)),
    ("float[] s", "t = Unsqueeze(s, zero)", ()),
    ("float[3,4] s", "t = MatMul(s, square)", ()),
    ("float[N,4] s", "t = Concat<axis=0>(s, s)", ()),
    ("float[N,4] s", "t = MatMul(s, wide)", ()),
]


@pytest.mark.parametrize(("state", "body", "known"), ROUNDS)
def test_a_state_has_the_shape_that_every_round_hands_on(
    state: str, body: str, known: tuple[str | int | None, ...]
) -> None:
    signature = "(float[N,4] x, int64 n) => (float[a,b] y)"
    source = model(
        f"{signature} <float[4,4] square, float[4,5] wide, bool true = {{1}}, int64[1] zero = {{0}}>",
        f"""y = Loop (n, , x) <body = round (int64 i, bool c, {state}) => (bool again, float t) {{
                again = Identity(true)
                {body}
            }}>""",
        checked=False,
    )
    (output,) = checked(source).outputs
    assert tuple(None if is_made_up(dim) else dim for dim in output.shape or ()) == known


def test_what_follows_a_loop_is_counted_at_the_sizes_of_its_state() -> None:
    source = model(
        "(float[N,T,4] x, int64 n) => (float[N,T,3] y) <float[4,4] square, float[4,3] w, bool true = {1}>",
        """s0 = Loop (n, , x) <body = round (int64 i, bool c, float[N,T,4] s) => (bool again, float[N,T,4] t) {
                again = Identity(true)
                t = MatMul(s, square)
            }>
            y = MatMul(s0, w)""",
    )
    cost = count(source, at={"x": (2, 5, 4)})
    assert cost.flops == 10 * 4 * 7 + 10 * 3 * 7 and not cost.at.unknown


def test_what_inference_does_not_keep_is_supposed_once() -> None:
    """As of a state that enters the first round as one number, and is declared otherwise: there is no other end."""
    source = model(
        "(float[N,4] x, int64 n) => (float[a,b] y) <bool true = {1}, float zero = {0}>",
        """y = Loop (n, , zero) <body = round (int64 i, bool c, float[N,4] s) => (bool again, float[N,4] t) {
                again = Identity(true)
                t = Add(x, s)
            }>""",
        checked=False,
    )
    graph = imported(source)
    (body,) = subgraphs(graph.nodes[0])
    states, again = Suppositions(), []
    for _ in range(3):
        body.inputs[2].shape = ["N", 4]
        again.append(states.revised(graph))
    assert again == [True, False, False]


@pytest.mark.parametrize("trips, rounds", [("size", 9), ("most", 1), ("seven", 7)])
def test_all_rounds_are_counted_as_far_as_a_constant_or_the_sizes_say(trips: str, rounds: int) -> None:
    source = model(
        "(float[N,T,4] x) => (float[N,4] y) <float[4,4] w, int64 one = {1}, int64[1] axis = {1}, bool go = {1}>",
        f"""shape = Shape(x) size = Gather(shape, one) start = ReduceSum<keepdims=0>(x, axis)
            y = Loop ({trips}, go, start) <body = step (int64 i, bool c, float[N,4] h) => (bool cc, float[N,4] z) {{
                z = MatMul(h, w) cc = Identity(c) }}>""",
        constants={"most": np.array(2**63 - 1), "seven": np.array(7)},
    )
    cost = count(source, at={"x": (2, 9, 4)})
    assert cost.macs == rounds * 2 * 4 * 4 and cost.at.loops == (rounds == 1)
