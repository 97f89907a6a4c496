"""Constants that padding makes uneven, as known maps."""

from typing import Any

import numpy as np
import onnx
import pytest

from passes import shrink
from passes.abstract_values.constant_maps import ConstantMap, Sliding
from passes.abstract_values.row_index import Rows
from passes.abstract_values.windows import Window
from passes.analysis.dataflow import analyse
from passes.sizes.prepare import prepared
from tests.generators.check import adapters_cost, assert_exact, assert_same_function
from tests.passes.text import Array, compiled, mask, model, operators, random, weight

CHANNELS = 64
LIVE = 8


def depthwise(
    signature: str,
    between: str = "r = Relu(d)",
    stride: int = 1,
    opset: int = 17,
    channels: int = CHANNELS,
    **weights: Array,
) -> onnx.ModelProto:
    """A masked and shifted tensor through a padded depthwise convolution, `between`, and a pointwise one."""
    constants = {
        "shift": (1, channels, 1, 1),
        "wd": (channels, 1, 3, 3),
        "wp": (4, channels, 1, 1),
        "t": (channels,),
        "s": np.full(channels, 0.7),
        "mu": np.full(channels, 0.1),
        "var": np.full(channels, 1.3),
        "amounts": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "behind": np.array([0, 1, 1, 0, 0, 1, 1, 0]),
        "half": np.array(0.5),
        "halves": np.array([channels // 2] * 2),
    }
    return model(
        signature,
        "m = Mul(x, k)\n a = Add(m, shift)\n"
        f"d = Conv<group={channels}, pads=[1,1,1,1], strides=[{stride},{stride}]>(a, wd)\n"
        f"{between.replace('group=G', f'group={channels}')}\n y = Conv(r, wp)",
        opset=opset,
        constants=constants,
        k=mask(*[1] * LIVE, *[0] * (channels - LIVE)),
        **weights,
    )


def stored(source: onnx.ModelProto) -> int:
    """Elements of the initializers."""
    return sum(int(np.prod(t.dims)) for t in source.graph.initializer)


def test_the_map_of_a_padded_depthwise_convolution_has_three_rows_and_columns() -> None:
    graph = prepared(depthwise(f"(float[N,{CHANNELS},9,11] x) => (float[N,4,9,11] y)"))
    pattern = analyse(graph).constant_map["d"][1]
    assert pattern.mask.sum() == CHANNELS - LIVE
    assert pattern.value.shape == (CHANNELS, 1, 3, 3)
    assert pattern.index[0] is None, "the same for every example"
    rows, columns = pattern.index[1:]
    assert rows is not None and columns is not None
    assert rows.places[0] != rows.places[1] == rows.places[7] != rows.places[8] != rows.places[0]
    assert (rows.places.size, columns.places.size) == (9, 11)


@pytest.mark.parametrize("stride", [1, 2])
def test_known_maps_leave_the_depthwise_convolution_and_come_back_as_one_addition(stride: int) -> None:
    out = (16 - 1) // stride + 1
    result = compiled(depthwise(f"(float[N,{CHANNELS},16,16] x) => (float[N,4,{out},{out}] y)", stride=stride))
    assert weight(result, "Conv", which=0).shape[0] == 8
    assert weight(result, "Conv", which=1).shape == (4, 8, 1, 1)
    largest = max(int(np.prod(t.dims)) for t in result.model.graph.initializer)
    assert largest < 16 * 16, "the map is stored by its distinct rows and columns"


def test_an_added_map_takes_in_the_bias() -> None:
    source = depthwise(f"(float[N,{CHANNELS},16,16] x) => (float[N,4,16,16] y) <float[4] bias>")
    source.graph.node[-1].input.append("bias")
    nodes = compiled(source).model.graph.node
    assert [len(node.input) for node in nodes if node.op_type == "Conv"] == [2, 2]


WIDE = 288  # channels: enough that the many places of two windows are stored
SIZES = {"N": (1, 2, 1, 3, 1, 2), "H": (1, 1, 2, 3, 16, 25), "W": (1, 4, 2, 7, 9, 20)}


#: what lies between the convolutions; G: the number of channels
BETWEEN = [
    "b = BatchNormalization(d, s, t, mu, var)\n r = Sigmoid(b)",
    "c = Conv<group=G, pads=[2,2,2,2], dilations=[2,2]>(d, wd)\n r = Relu(c)",
    "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(d)\n r = Relu(p)",
    "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(d)\n r = Relu(p)",
    "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(d)\n r = Relu(p)",
    "o = Pad(d, amounts, half)\n r = AveragePool<kernel_shape=[3,3]>(o)",
    "l = Transpose<perm=[0,2,3,1]>(d)\n o = Pad(l, behind, half)\n"
    "p = Transpose<perm=[0,3,1,2]>(o)\n r = AveragePool<kernel_shape=[3,3]>(p)",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "between",
    [
        *BETWEEN,
        "r = Relu(d)",
        "e = Relu(d)\n c = Conv<group=G, pads=[1,1,1,1], strides=[2,2]>(e, wd)\n r = Relu(c)",
        'c = Conv<group=G, auto_pad="SAME_UPPER", strides=[2,3]>(d, wd)\n r = Relu(c)',
        'e = Conv<group=G, auto_pad="SAME_LOWER", strides=[3,2]>(d, wd)\n'
        'c = Conv<group=G, auto_pad="SAME_UPPER", strides=[2,2]>(e, wd)\n r = Relu(c)',
        "f = Conv<group=G, pads=[2,2,2,2], dilations=[2,2]>(a, wd)\n r = Mul(d, f)",
        "f = Conv<group=G, pads=[1,1,1,1]>(a, wd)\n u, v = Split<axis=1>(d, halves)\n"
        "w, z = Split<axis=1>(f, halves)\n r = Concat<axis=1>(u, w)",
        "v = Transpose<perm=[0,1,3,2]>(d)\n r = Transpose<perm=[0,1,3,2]>(v)",
    ],
)
@pytest.mark.parametrize("opset", [11, 17])
def test_maps_go_through_windows(between: str, opset: int) -> None:
    if opset == 11 and "halves" in between:
        pytest.skip("Split takes sizes as an operand from opset 13 on")
    source = depthwise(f"(float[N,{WIDE},H,W] x) => (float[N,4,A,B] y)", between, opset=opset, channels=WIDE)
    result = compiled(source, **SIZES)
    assert weight(result, "Conv", which=0).shape[0] == LIVE, "the known channels are not computed"
    assert weight(result, "Conv", which=-1).shape[1] == LIVE * (2 if "Concat" in between else 1)
    assert assert_exact(source, symbols=SIZES)


@pytest.mark.parametrize(
    "between",
    [
        *BETWEEN,
        "r = HardSwish(d)",
        'o = Pad<mode="reflect">(d, amounts)\n r = AveragePool<kernel_shape=[3,3]>(o)',
        'l = Transpose<perm=[0,2,3,1]>(d)\n o = Pad<mode="edge">(l, behind)\n'
        "p = Transpose<perm=[0,3,1,2]>(o)\n r = AveragePool<kernel_shape=[3,3]>(p)",
        "g = GlobalAveragePool(d)\n e = Sigmoid(g)\n r = Mul(d, e)",
        "g = ReduceMean<axes=[2,3]>(d)\n e = Sigmoid(g)\n r = Mul(d, e)",
        "u, v = Split<axis=1>(d, halves)\n r = Concat<axis=1>(v, u)",
    ],
)
def test_maps_go_through(between: str) -> None:
    result = compiled(depthwise(f"(float[N,{CHANNELS},12,12] x) => (float[N,4,A,B] y)", between))
    assert weight(result, "Conv", which=0).shape[0] == 8
    assert weight(result, "Conv", which=-1).shape[1] == 8


def test_a_map_that_meets_a_live_branch_is_put_back_at_its_door() -> None:
    source = depthwise(f"(float[N,{CHANNELS},8,8] x) => (float[N,4,8,8] y)", "t = Add(d, x)\n r = Relu(t)")
    assert "Add" in operators(compiled(source))


def test_a_branch_that_is_a_known_map_altogether_disappears() -> None:
    source = model(
        f"(float[N,{CHANNELS},8,8] x) => (float[N,{CHANNELS},8,8] y)"
        f" <float[{CHANNELS},1,3,3] wd, float[1,{CHANNELS},1,1] shift>",
        f"m = Mul(x, none)\n a = Add(m, shift)\n d = Conv<group={CHANNELS}, pads=[1,1,1,1]>(a, wd)\n y = Mul(d, x)",
        none=mask(*[0] * CHANNELS),
    )
    assert "Conv" not in operators(compiled(source))


def test_rows_that_occur_nowhere_do_not_count() -> None:
    """A Pad of no amount left the value it pads with among the rows, and the maximum was taken over it."""
    source = depthwise(
        f"(float[N,{CHANNELS},12,12] x) => (float[N,4,1,1] y)",
        "p = Pad(d, amounts, high)\n r = GlobalMaxPool(p)",
        amounts=np.zeros(8, np.int64),
        high=np.array(1e3),
    )
    compiled(source)


@pytest.mark.parametrize(("places", "stored"), [([1, 1], [[1.0]]), ([3, 0], [[3.0, 0.0]]), ([2, 1, 2], [[1.0, 2.0]])])
def test_rows_are_stored_once_and_in_order_where_each_occurs_once(places: list[int], stored: list[list[float]]) -> None:
    maps = ConstantMap(np.ones(1, bool), np.arange(4.0)[None], (Rows(np.asarray(places)),))
    compact = maps.compact()
    assert compact.value.tolist() == stored
    assert np.broadcast_to(compact.expanded(), (1, len(places))).tolist() == maps.expanded().tolist()


def test_maps_larger_than_what_makes_them_are_not_stored_at_a_door() -> None:
    """Many places of two windows were stored for every channel that a convolution had to see."""
    source = model(
        f"(float[N,3,H,W] x) => (float[N,40,A,B] y) <float[{CHANNELS},3,1,1] we, float[{CHANNELS},1,5,5] wd, "
        f"float[40,{CHANNELS},1,1] wp, float[1,{CHANNELS},1,1] shift>",
        "e = Conv(x, we)\n m = Mul(e, k)\n a = Add(m, shift)\n"
        f'd = Conv<group={CHANNELS}, auto_pad="SAME_UPPER">(a, wd)\n'
        f"c = Conv<group={CHANNELS}, pads=[2,2,2,2], strides=[3,3]>(d, wd)\n y = Conv(c, wp)",
        k=mask(1, *[0] * (CHANNELS - 1)),
    )
    for price in (None, 0.01):
        with adapters_cost(price):
            result = compiled(source)
        assert stored(result.model) <= stored(source)


TOKENS = 12


def tokens(
    body: str, signature: str = f"(float[N,T,{CHANNELS}] x)", out: str = "float[N,A,4]", **weights: Any
) -> onnx.ModelProto:
    """A sequence whose channels are masked, and `body` behind that."""
    constants = {"k": mask(*[1] * LIVE, *[0] * (CHANNELS - LIVE), rank=2), "w": random(CHANNELS, 4, seed=3), **weights}
    return model(f"{signature} => ({out} y)", f"m = Mul(x, k)\n {body}", constants=constants)


@pytest.mark.parametrize(
    "body",
    [
        "p = Add(m, positions)\n y = MatMul(p, w)",
        "p = Add(m, positions)\n r = Tanh(p)\n e = Mul(r, rows)\n y = MatMul(e, w)",
        "p = Add(m, positions)\n t = Transpose<perm=[0,2,1]>(p)\n s = Slice(t, one, ten, two)\n"
        "u = Transpose<perm=[0,2,1]>(s)\n y = MatMul(u, w)",
        "p = Add(m, positions)\n c = ReduceMean<axes=[1]>(p)\n d = Sub(p, c)\n y = MatMul(d, w)",
        "p = Add(m, positions)\n c = ReduceMax<axes=[1], keepdims=0>(p)\n y = MatMul(c, w)",
        "p = Add(m, positions)\n t = Transpose<perm=[0,2,1]>(p)\n y = Conv<pads=[1,1]>(t, w3)",
        "v = Shape(m)\n n = Slice(v, zero, one)\n s = Concat<axis=0>(n, rest)\n t = Expand(token, s)\n"
        "c = Concat<axis=1>(t, m)\n y = MatMul(c, w)",
        "p = Add(m, positions)\n t = Transpose<perm=[0,2,1]>(p)\n l = LayerNormalization<axis=-1>(t, gamma, beta)\n"
        "s = Softmax<axis=-1>(l)\n u = Transpose<perm=[0,2,1]>(s)\n y = MatMul(u, w)",
        "p = Add(m, bias)\n c = ReduceSum<keepdims=1>(p, one)\n d = Add(p, c)\n y = MatMul(d, w)",
    ],
)
def test_channels_that_differ_from_token_to_token_are_known(body: str) -> None:
    weights = {"positions": (1, TOKENS, CHANNELS), "rows": (TOKENS, 1), "gamma": (TOKENS,), "beta": (TOKENS,)}
    weights |= {"token": (1, 1, CHANNELS), "bias": (CHANNELS,), "w3": (4, CHANNELS, 3)}
    integers = {"zero": [0], "one": [1], "two": [2], "ten": [10], "rest": [1, CHANNELS]}
    rank = "A,B" if "keepdims=0" not in body else "A"
    source = tokens(body, f"(float[N,{TOKENS},{CHANNELS}] x)", f"float[N,{rank}]", **weights, **integers)
    result = compiled(source)
    op, axis = ("Conv", 1) if "Conv" in body else ("MatMul", 0)
    assert weight(result, op).shape[axis] == LIVE
    assert assert_exact(source)


@pytest.mark.parametrize(
    "mixed",
    [
        "t = Transpose<perm=[0,2,1]>(p)  h = MatMul(t, wt)  b = Add(h, by_token)  u = Transpose<perm=[0,2,1]>(b)",
        "h = MatMul(wt, p)  u = Tanh(h)",
        'h = Einsum<equation="bsd,st->btd">(p, wt)  u = Tanh(h)',
        "h = Conv(p, wc, by_token)  u = Tanh(h)",
        "h = Conv(m, wc, by_token)  e = Mul(h, h)  u = Add(e, p)",
    ],
)
def test_channels_are_known_behind_what_mixes_tokens(mixed: str) -> None:
    """By a product, or a convolution of which the tokens are the channels; none computes them."""
    source = tokens(
        f"p = Add(m, positions)  {mixed}  y = MatMul(u, w)",
        f"(float[N,{TOKENS},{CHANNELS}] x)",
        "float[N,A,B]",
        positions=(1, TOKENS, CHANNELS),
        by_token=(TOKENS,),
        wt=(TOKENS, TOKENS),
        wc=(TOKENS, TOKENS, 1),
    )
    result = compiled(source)
    assert [t.dims[0] for t in result.model.graph.initializer if t.dims[1:] == [4]] == [LIVE]
    assert result.report.after.flops < result.report.before.flops * 2 * LIVE / CHANNELS
    assert assert_exact(source)


@pytest.mark.parametrize(
    "product",
    [
        "p = Gemm(m, w, beside)",
        "p = Gemm<transA=1>(m, wa, row)",
        'p = Einsum<equation="ii,ij->ij">(m, w)',
        'p = Einsum<equation="ij,ik->ik">(m, w)',
    ],
)
def test_rows_that_a_product_does_not_treat_alike_are_not_known(product: str) -> None:
    assert assert_exact(
        model(
            "(float[6,6] x) => (float[A,3] y) <float[6,1] k = {1, 0, 1, 1, 1, 1}, float[6,1] shift, float[6,4] w, "
            "float[6,4] beside, float[6,4] wa, float[4] row, float[4,3] wy>",
            f"s = Mul(x, k)  m = Add(s, shift)  {product}  e = Tanh(p)  y = MatMul(e, wy)",
        )
    )


def test_a_norm_along_positions_leaves_its_shift_in_masked_channels() -> None:
    """Channels that are constant are zero behind the mean, and then the shift, which differs from place to place."""
    source = tokens(
        "z = Add(m, bias)\n c = ReduceMean<axes=[1]>(z)\n d = Sub(z, c)\n q = Mul(d, d)\n v = ReduceMean<axes=[1]>(q)\n"
        "e = Add(v, small)\n s = Sqrt(e)\n n = Div(d, s)\n g = Mul(n, gamma)\n h = Add(g, beta)\n"
        "t = Transpose<perm=[0,2,1]>(h)\n y = Conv(t, w3)",
        f"(float[N,{TOKENS},{CHANNELS}] x)",
        "float[N,A,B]",
        bias=np.full(CHANNELS, 0.5),
        small=np.array(1e-3),
        gamma=(TOKENS, 1),
        beta=(TOKENS, 1),
        w3=(4, CHANNELS, 5),
    )
    result = compiled(source)
    assert weight(result, "Conv").shape[1] == LIVE
    assert assert_exact(source)


def test_a_map_of_many_places_is_not_added_where_it_is_larger_than_the_weights_that_go() -> None:
    source = tokens(
        "p = Add(m, positions)\n y = MatMul(p, w)",
        f"(float[N,200,{CHANNELS}] x)",
        positions=random(1, 200, CHANNELS, seed=5),
    )
    assert stored(compiled(source).model) <= stored(source)


@pytest.mark.parametrize("read", ["y = MatMul(p, w)", "t = Transpose<perm=[0,2,1]>(p)\n y = Conv<pads=[2,2]>(t, w5)"])
@pytest.mark.parametrize("live", [40, 62])
def test_one_channel_stands_for_others_of_the_same_map_where_that_is_too_large_to_add(read: str, live: int) -> None:
    source = tokens(
        f"p = Add(m, positions)\n {read}",
        f"(float[N,200,{CHANNELS}] x)",
        "float[N,A,B]",
        positions=random(1, 200, 1, seed=5),
        k=mask(*[1] * live, *[0] * (CHANNELS - live), rank=2),
        w5=random(4, CHANNELS, 5, seed=7),
    )
    op, axis = ("Conv", 1) if "Conv" in read else ("MatMul", 0)
    assert weight(compiled(source), op).shape[axis] == live + 1
    assert assert_exact(source)


def test_weights_that_are_computed_may_have_sizes_that_are_not_known() -> None:
    """Where the size behind such a convolution is asked for."""
    source = model(
        "(float[N,3,H,W] x, float[K] given) => (float[N,4,P,Q] y)"
        " <int64[4] sizes = {4, 3, 2, -1}, float[1,4,1,1] k = {1, 0, 1, 0}, float[1,4,1,1] shift, "
        "float[4,1,3,3] wd, float[4,4,1,1] wp>",
        "w = Reshape(given, sizes)  c = Conv<kernel_shape=[2,2]>(x, w)  m = Mul(c, k)  a = Add(m, shift)"
        "  d = Conv<group=4, pads=[1,1,1,1]>(a, wd)  y = Conv(d, wp)",
    )
    assert_same_function(source, shrink(source).model, symbols={"N": [2], "H": [5], "W": [6], "K": [48]})


def test_windows_too_large_to_look_at_leave_nothing_known() -> None:
    """A kernel of a file may have any size: nothing of that size is made."""
    values = ConstantMap(np.ones(2, bool), np.ones((2, 1, 3, 3), np.float32), (None, None, None))
    assert Sliding([Window(2**27), Window(1)], [3, 3]).over(values, 0.0) is None


def test_maps_of_tensors_without_elements() -> None:
    """The map of a padded channel meets one for no examples."""
    source = depthwise(
        f"(float[N,{CHANNELS},9,9] x) => (float[M,4,9,9] y)",
        between="t = Mul(d, none)\n r = Relu(t)",
        none=random(0, 1, 1, 1, seed=5),
    )
    onnx.checker.check_model(shrink(source).model, full_check=True)
