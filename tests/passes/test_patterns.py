"""Constants that padding makes uneven, as known maps."""

from __future__ import annotations

import numpy as np
import pytest

from passes.clean import prepared
from passes.facts import analyse
from tests.passes.text import Array, compiled, mask, model, operators, random, weight

CHANNELS = 64
LIVE = np.r_[np.ones(8), np.zeros(CHANNELS - 8)]


def depthwise(signature: str, between: str = "r = Relu(d)", stride: int = 1, **weights: Array) -> object:
    """A masked and shifted tensor through a padded depthwise convolution, `between`, and a pointwise one."""
    return model(
        signature,
        "m = Mul(x, k)\n a = Add(m, shift)\n"
        f"d = Conv<group={CHANNELS}, pads=[1,1,1,1], strides=[{stride},{stride}]>(a, wd)\n{between}\n"
        "y = Conv(r, wp)",
        k=mask(*LIVE.astype(int)),
        shift=random(1, CHANNELS, 1, 1, seed=1),
        wd=random(CHANNELS, 1, 3, 3, seed=2),
        wp=random(4, CHANNELS, 1, 1, seed=3),
        **weights,
    )


def test_the_map_of_a_padded_depthwise_convolution_has_three_rows_and_columns() -> None:
    graph = prepared(depthwise(f"(float[N,{CHANNELS},9,11] x) => (float[N,4,9,11] y)"))  # type: ignore[arg-type]
    pattern = analyse(graph).pattern["d"]
    assert pattern.mask.sum() == CHANNELS - 8
    assert pattern.value.shape == (CHANNELS, 3, 3)
    assert pattern.index[0].tolist() == [0, *[1] * 7, 2] or len(set(pattern.index[0].tolist())) == 3
    assert pattern.expanded().shape == (CHANNELS, 9, 11)


@pytest.mark.parametrize("stride", [1, 2])
def test_known_maps_leave_the_depthwise_convolution_and_come_back_as_one_addition(stride: int) -> None:
    out = (16 - 1) // stride + 1
    result = compiled(
        depthwise(
            f"(float[N,{CHANNELS},16,16] x) => (float[N,4,{out},{out}] y)",
            stride=stride,  # type: ignore[arg-type]
        )
    )
    assert weight(result, "Conv", which=0).shape[0] == 8
    assert weight(result, "Conv", which=1).shape == (4, 8, 1, 1)
    largest = max(int(np.prod(t.dims)) for t in result.model.graph.initializer)
    assert largest < 16 * 16, "the map is stored by its distinct rows and columns"


def test_with_symbolic_sizes_the_constants_are_put_back() -> None:
    result = compiled(depthwise(f"(float[N,{CHANNELS},H,W] x) => (float[N,4,H,W] y)"))  # type: ignore[arg-type]
    assert weight(result, "Conv", which=0).shape[0] == CHANNELS


@pytest.mark.parametrize(
    "between",
    [
        "r = HardSwish(d)",
        "b = BatchNormalization(d, s, t, mu, var)\n r = Sigmoid(b)",
        f"c = Conv<group={CHANNELS}, pads=[2,2,2,2], dilations=[2,2]>(d, wd)\n r = Relu(c)",
        "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(d)\n r = Relu(p)",
        "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(d)\n r = Relu(p)",
        "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(d)\n r = Relu(p)",
        "o = Pad(d, amounts, half)\n r = AveragePool<kernel_shape=[3,3]>(o)",
        'o = Pad<mode="reflect">(d, amounts)\n r = AveragePool<kernel_shape=[3,3]>(o)',
        "g = GlobalAveragePool(d)\n e = Sigmoid(g)\n r = Mul(d, e)",
        "g = ReduceMean<axes=[2,3]>(d)\n e = Sigmoid(g)\n r = Mul(d, e)",
        "u, v = Split<axis=1>(d, halves)\n r = Concat<axis=1>(v, u)",
    ],
)
def test_maps_go_through(between: str) -> None:
    one = np.ones(CHANNELS)
    weights = {
        "s": one * 0.7,
        "t": random(CHANNELS, seed=7),
        "mu": one * 0.1,
        "var": one * 1.3,
        "amounts": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "half": np.array(0.5),
        "halves": np.array([CHANNELS // 2] * 2),
    }
    used = {k: v for k, v in weights.items() if f"{k})" in between or f"{k}," in between}
    source = depthwise(f"(float[N,{CHANNELS},12,12] x) => (float[N,4,12,12] y)", between, **used)
    result = compiled(source)  # type: ignore[arg-type]
    assert weight(result, "Conv", which=0).shape[0] == 8
    assert weight(result, "Conv", which=-1).shape[1] == 8


def test_a_map_that_meets_a_live_branch_is_put_back_at_its_door() -> None:
    source = depthwise(f"(float[N,{CHANNELS},8,8] x) => (float[N,4,8,8] y)", "t = Add(d, x)\n r = Relu(t)")
    result = compiled(source)  # type: ignore[arg-type]
    assert "Add" in operators(result)


def test_a_branch_that_is_a_known_map_altogether_disappears() -> None:
    source = model(
        f"(float[N,{CHANNELS},8,8] x) => (float[N,{CHANNELS},8,8] y)",
        f"m = Mul(x, none)\n a = Add(m, shift)\n d = Conv<group={CHANNELS}, pads=[1,1,1,1]>(a, wd)\n y = Mul(d, x)",
        none=mask(*[0] * CHANNELS),
        shift=random(1, CHANNELS, 1, 1, seed=1),
        wd=random(CHANNELS, 1, 3, 3, seed=2),
    )
    result = compiled(source)
    assert "Conv" not in operators(result)


def test_rows_that_occur_nowhere_do_not_count() -> None:
    """A Pad of no amount left the value it pads with among the rows, and the maximum was taken over it."""
    source = depthwise(
        f"(float[N,{CHANNELS},12,12] x) => (float[N,4,1,1] y)",
        "p = Pad(d, amounts, high)\n r = GlobalMaxPool(p)",
        amounts=np.zeros(8, np.int64),
        high=np.array(1e3),
    )
    compiled(source)  # type: ignore[arg-type]
