"""GroupNormalization over partly constant channels."""

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.generators.check import adapters_cost, assert_same_function
from tests.passes.text import Array, compiled, model, operators, random, weight

N, GROUPS = 24, 4


def network(before: Array, shift: Array, after: Array) -> onnx.ModelProto:
    """Masked and shifted channels, normalised in groups, masked again."""
    return model(
        f"(float[B,3,H,W] x) => (float[B,5,H,W] o) <float[{N},3,1,1] w, float[{N}] scale, float[{N}] bias, "
        f"float[5,{N},3,3] w2>",
        f"c = Conv(x, w)  m = Mul(c, k)  a = Add(m, shift)  g = GroupNormalization<num_groups={GROUPS}>(a, scale, bias)"
        "  j = Mul(g, k2)  r = Tanh(j)  o = Conv<pads=[1,1,1,1]>(r, w2)",
        21,
        k=before.astype(np.float32).reshape(1, N, 1, 1),
        k2=after.astype(np.float32).reshape(1, N, 1, 1),
        shift=shift.astype(np.float32).reshape(1, N, 1, 1),
    )


EVEN = np.arange(N) % 2 == 0
UNEVEN = np.arange(N) % 7 < 3
ONE_GROUP = np.arange(N) >= N // GROUPS


@pytest.mark.parametrize("shift", [np.zeros(N), random(N, seed=5)], ids=["zeros", "constants"])
@pytest.mark.parametrize("kept", [EVEN, UNEVEN, ONE_GROUP], ids=["even", "uneven", "one group gone"])
def test_masked_before_and_behind(kept: Array, shift: Array) -> None:
    source = network(kept, shift, kept)
    result = compiled(source)
    widest = int(kept.reshape(GROUPS, -1).sum(axis=1).max())
    assert weight(result, "Conv").shape[0] == widest * int(kept.reshape(GROUPS, -1).any(axis=1).sum())


def test_masked_behind_only_all_count() -> None:
    result = compiled(network(np.ones(N), np.zeros(N), EVEN))
    assert weight(result, "Conv").shape[0] == N


@pytest.mark.parametrize("before", [np.ones(N), EVEN, ONE_GROUP], ids=["none", "even", "one group"])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("opset", [20, 21])
def test_groups_masked_behind_go(opset: int, computed: bool, before: Array) -> None:
    """Whole groups alone: the third loses a half."""
    after = np.asarray([0, 1, 1, 0], np.float32).repeat(N // GROUPS) * (np.arange(N) != 13)
    size = N if opset == 21 else GROUPS
    vectors = f"float[{size}] scale, float[{size}] bias"
    given, weights = (f", {vectors}", "") if computed else ("", f", {vectors}")
    source = model(
        f"(float[B,3,H,W] x{given}) => (float[B,5,H,W] o) <float[{N},3,1,1] w, float[5,{N},3,3] w2{weights}>",
        f"c = Conv(x, w)  m = Mul(c, k)  g = GroupNormalization<num_groups={GROUPS}>(m, scale, bias)"
        "  r = Relu(g)  j = Mul(r, k2)  o = Conv<pads=[1,1,1,1]>(j, w2)",
        opset,
        checked=opset == 21,  # deprecated before
        k=before.astype(np.float32).reshape(1, N, 1, 1),
        k2=after.reshape(1, N, 1, 1),
    )
    for price in (0.01, 1e9):
        with adapters_cost(price):
            result = shrink(source)
            assert_same_function(source, result.model)
            assert weight(result, "Conv").shape[0] <= N // 2


def test_read_behind_they_are_put_back() -> None:
    assert "GroupNormalization" in operators(compiled(network(EVEN, np.zeros(N), np.ones(N))))


def test_one_group_of_zeros_is_one_channel_more() -> None:
    source = model(
        f"(float[B,3,H,W] x) => (float[B,5,H,W] o) <float[{N},3,1,1] w, float[{N}] scale, float[{N}] bias, "
        f"float[5,{N},1,1] w2>",
        "c = Conv(x, w)  m = Mul(c, k)  g = GroupNormalization<num_groups=1>(m, scale, bias)  o = Conv(g, w2)",
        21,
        k=EVEN.astype(np.float32).reshape(1, N, 1, 1),
    )
    assert weight(compiled(source), "Conv", which=1).shape[1] == N // 2 + 1
