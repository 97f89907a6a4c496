"""Grouped convolutions whose groups lose unequal numbers of channels: one for each run of groups that are alike."""

import numpy as np
import onnx
import pytest

from passes import Policy, Shrunk, shrink
from tests.generators.check import adapters_cost, check
from tests.passes.text import model

# Of four groups of four channels each, those that are read and those that are written.
READ = np.float32([[1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]])
WRITTEN = np.float32([[0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 0, 1]])
PAIRS = int(READ.sum(axis=1) @ WRITTEN.sum(axis=1))


def network(layer: str = "Conv", opset: int = 17, size: int = 5, times: int = 1) -> onnx.ModelProto:
    """A grouped convolution between two others, with masks before and after it, and `times` as many channels."""
    text = f"""a = Conv(x, u)  m = Mul(a, read)  r = Relu(m)
        b = {layer}<group = 4, pads = [1, 1, 1, 1], strides = [2, 2]>(r, w, bias)
        n = Mul(b, written)  s = Relu(n)  y = Conv(s, v)"""
    c = 16 * times
    return model(
        f"(float[N,{c},{size},{size}] x) => (float[N,5,A,B] y)"
        f" <float[{c},{c},1,1] u, float[{c},{c // 4},3,3] w, float[{c}] bias, float[5,{c},1,1] v>",
        text,
        opset,
        read=np.repeat(READ, times).reshape(-1, 1, 1),
        written=np.repeat(WRITTEN, times).reshape(-1, 1, 1),
    )


def parts(result: Shrunk) -> list[tuple[int, int]]:
    """The channels that each 3x3 convolution reads in a group, and those that it writes, by their numbers on disk."""
    found = [tuple(t.dims) for t in result.model.graph.initializer if len(t.dims) == 4 and t.dims[2] == 3]
    return [(int(shape[0]), int(shape[1])) for shape in found]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
def test_each_group_computes_what_it_must_where_moving_is_cheap(layer: str, opset: int) -> None:
    with adapters_cost(1e-6):
        result = check(network(layer, opset))
    assert len(parts(result)) == 4
    assert sum(a * b for a, b in parts(result)) == PAIRS


@pytest.mark.parametrize(("policy", "convolutions"), [("never", 1), ("auto", 1), ("always", 4)])
def test_moving_costs_what_the_policy_says(policy: Policy, convolutions: int) -> None:
    assert len(parts(shrink(network(), adapters=policy))) == convolutions


def test_large_images_are_worth_it() -> None:
    result = shrink(network(size=32, times=8))
    assert len(parts(result)) > 1
    assert not result.report.held
    assert sum(a * b for a, b in parts(result)) == PAIRS * 8**2


def test_empty_images_stay_as_they_are() -> None:
    assert len(parts(shrink(network(size=0)))) == 1


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("policy", ["never", "auto", "always"])
@pytest.mark.parametrize("times", [3, 6])
def test_groups_of_one_channel_read_it_once_for_each_that_they_keep(layer: str, policy: Policy, times: int) -> None:
    written = np.random.default_rng(times).random(8 * times) < 0.5
    read = np.arange(8) % 3 > 0
    source = model(
        "(float[N,4,6,6] x) => (float[N,5,A,B] y)"
        f" <float[8,4,1,1] u, float[{8 * times}] bias, float[5,{8 * times},1,1] v>",
        f"""a = Conv(x, u)  m = Mul(a, read)  r = Relu(m)  b = {layer}<group = 8, pads = [1, 1, 1, 1]>(r, w, bias)
        n = Mul(b, written)  s = Relu(n)  y = Conv(s, v)""",
        read=read.astype(np.float32).reshape(-1, 1, 1),
        written=written.astype(np.float32).reshape(-1, 1, 1),
        w=(8 * times, 1, 3, 3) if layer == "Conv" else (8, times, 3, 3),
    )
    result = check(source) if policy == "auto" else shrink(source, adapters=policy)
    repeats = layer == "Conv" and (policy == "always" or (policy == "auto" and times == 3))
    kept = written.reshape(8, -1)[read]
    count = kept.sum() if repeats else kept.any(axis=1).sum() * kept.sum(axis=1).max()
    assert sum(a if layer == "Conv" else a * b for a, b in parts(result)) == count


@pytest.mark.parametrize("value", ["0", '"default"'])
def test_another_operator_may_call_anything_a_group(value: str) -> None:
    """As those that send tensors to other machines do: it has nothing to do with convolutions."""
    body = f"c = Conv(x, w) m = Mul(c, k) g = some.AllReduce<group = {value}>(m) y = Relu(g)"
    keep = np.array([1, 0, 1], np.float32).reshape(3, 1, 1)
    source = model("(float[N,4,5,5] x) => (float[A,B,C,D] y)", body, checked=False, w=(3, 4, 1, 1), k=keep)
    assert "AllReduce" in [node.op_type for node in shrink(source).model.graph.node]
