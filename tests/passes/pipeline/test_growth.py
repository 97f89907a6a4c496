"""Compile time grows about as the graph does, in graphs that tempt the passes to look at everything twice."""

import cProfile
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from passes import Policy, shrink
from tests.passes.text import model, random

CHANNELS = 16


def chain(steps: int) -> onnx.ModelProto:
    """A residual chain with a mask of its own at every step."""
    body = "s0 = MatMul(x, w)\n" + "".join(
        f"a{i} = MatMul(s{i}, w)\n m{i} = Mul(a{i}, k{i})\n s{i + 1} = Add(s{i}, m{i})\n" for i in range(steps)
    )
    return whole(body + f"y = MatMul(s{steps}, w)", steps)


def fan(steps: int) -> onnx.ModelProto:
    """Many masked branches from one tensor into one sum: each holds channels that all the others write."""
    body = "h = MatMul(x, w)\n" + "".join(
        f"a{i} = MatMul(h, w)\n m{i} = Mul(a{i}, k{i})\n t{i} = Tanh(m{i})\n" for i in range(steps)
    )
    return whole(body + f"y = Sum({', '.join(f't{i}' for i in range(steps))})", steps)


def readers(steps: int) -> onnx.ModelProto:
    """One tensor with many consumers that need different channels."""
    body = "h = MatMul(x, w)\n r = Relu(h)\n" + "".join(
        f"m{i} = Mul(r, k{i})\n a{i} = MatMul(m{i}, w)\n t{i} = Tanh(a{i})\n" for i in range(steps)
    )
    return whole(body + f"y = Sum({', '.join(f't{i}' for i in range(steps))})", steps)


def whole(body: str, steps: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    masks = {f"k{i}": (rng.random(CHANNELS) < 0.6).astype(np.float32) for i in range(steps)}
    return model(f"(float[N,{CHANNELS}] x) => (float[N,{CHANNELS}] y)", body, w=random(CHANNELS, CHANNELS), **masks)


def calls(source: onnx.ModelProto, adapters: Policy) -> int:
    """Of functions, as many in every run."""
    profile = cProfile.Profile()
    profile.runcall(shrink, source, adapters=adapters)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("adapters", ["auto", pytest.param("never", marks=pytest.mark.slow)])
@pytest.mark.parametrize("graph", [chain, fan, readers])
def test_four_times_the_graph_takes_about_four_times_the_calls(
    graph: Callable[[int], onnx.ModelProto], adapters: Policy
) -> None:
    shrink(graph(5), adapters=adapters)  # what is imported and remembered is not counted
    assert calls(graph(80), adapters) < 5.5 * calls(graph(20), adapters)
