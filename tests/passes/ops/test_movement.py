"""Operators that move channels or positions between a masked layer and the next one."""

import numpy as np
import pytest

from tests.passes.text import compiled, exact, model, operators, random, weight

KEEP = np.array([1, 0, 1, 1, 0, 0, 1, 0], np.float32)  # half of eight channels
NUMBERS = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "last": np.array([-1]),
    "third_last": np.array([-3]),
    "end": np.array([2**63 - 1]),
    "far": np.array([-1000]),
    "back": np.array([-1]),
    "plane": np.array([2, 3]),
    "border": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "around": np.ones(4, np.int64),
    "fewer": np.array([0, -1, 0, 0, 0, -2, 0, 0]),
    "infinite": np.array(-np.inf, np.float32),
    "nil": np.array(0, np.float32),
    "doubled": np.array([1, 2, 2], np.float32),
    "turned": np.array([12, 8, 10]),
    "each": random(8, 1, 2, 2, seed=3),
    "pairs": random(8, 2, 2, 2, seed=4),
}

#: what lies between the layers, and how many channels it hands on
MOVEMENTS = {
    "flip": ("p = Slice(m, last, far, one, back)", 8),
    "flip of a part": ("p = Slice(m, third_last, zero, one, back)", 5),
    "flip and back": ("f = Slice(m, last, far, one, back) g = Relu(f) p = Slice(g, last, far, one, back)", 8),
    "roll": ("f = Slice(m, third_last, end, one) g = Slice(m, zero, third_last, one) p = Concat<axis=1>(f, g)", 8),
    "roll by zero": ("f = Slice(m, zero, end, one) g = Slice(m, end, end, one) p = Concat<axis=1>(f, g)", 8),
    "roll of open rows": (
        "f = Slice(m, last, end, two) g = Slice(m, zero, last, two) p = Concat<axis=2>(f, g)",
        8,
    ),
    "roll of open rows by zero": (
        "f = Slice(m, zero, end, two) g = Slice(m, end, end, two) p = Concat<axis=2>(f, g)",
        8,
    ),
    "halves of open rows": ("u, v = Split<axis=2, num_outputs=2>(m) p = Concat<axis=2>(v, u)", 8),
    "computed parts of the rows": (
        "r = Shape<start=2, end=3>(m) s = Div(r, three) t = Sub(r, s) c = Concat<axis=0>(s, t) "
        "u, v = Split<axis=2>(m, c) p = Concat<axis=2>(v, u)",
        8,
    ),
    "computed part of the rows": ("s = Shape<start=3>(x) p = Slice(m, zero, s, two)", 8),
    "cut by padding": ("p = Pad(m, fewer)", 5),
    "infinite border": ("q = Pad(m, border, infinite) p = MaxPool<kernel_shape=[3,3], strides=[2,2]>(q)", 8),
    "infinite border and more": (
        "q = Pad(m, around, infinite, plane) p = MaxPool<kernel_shape=[5,5], pads=[1,1,1,1], ceil_mode=1>(q)",
        8,
    ),
    "infinite border of a maximum": (
        "q = Pad(m, border, infinite) r = Max(q, infinite) p = MaxPool<kernel_shape=[3,3]>(r)",
        8,
    ),
    "positions shut out": ("s = Slice(x, zero, one, one) c = Greater(s, nil) p = Where(c, m, nil)", 8),
    "positions let in": ("s = Slice(x, zero, one, one) c = Greater(s, nil) p = Where(c, nil, m)", 8),
    "resize": ('p = Resize<axes=[1,2,3], mode="nearest">(m, , doubled)', 8),
    "resize to sizes": ('p = Resize<axes=[3,1,2], mode="linear">(m, , , turned)', 8),
    "depthwise": ("p = ConvTranspose<group=8, strides=[2,2]>(m, each)", 8),
    "depthwise twice as many": ("p = ConvTranspose<group=8, strides=[2,2]>(m, pairs)", 16),
}

OPEN = {"N": (1, 2), "H": (4, 7), "W": (6, 5)}


@pytest.mark.parametrize(("text", "width"), MOVEMENTS.values(), ids=MOVEMENTS)
def test_masked_channels_go_before_and_after(text: str, width: int) -> None:
    source = model(
        f"(float[N,3,H,W] x) => (float[N,4,h,w] y) <float[8,3,3,3] wa, float[8] ba, float[4,{width},3,3] wb>",
        f"a = Conv<pads=[1,1,1,1]>(x, wa, ba) b = Relu(a) m = Mul(b, keep) {text} y = Conv<pads=[1,1,1,1]>(p, wb)",
        21,
        constants=NUMBERS,
        keep=KEEP.reshape(1, 8, 1, 1),
    )
    result = compiled(source, **OPEN)
    assert all(axis.removed == axis.masked for axis in result.report.masked)
    assert weight(result, "Conv", which=0).shape[0] <= 4
    assert weight(result, "Conv", which=1).shape[1] <= max(width // 2, 1)
    exact(source, **OPEN)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_grouped_transposed_convolution_loses_the_same_number_in_every_group(group: int, shift: float) -> None:
    written = np.tile([1, 1, 0], 4).astype(np.float32)
    source = model(
        f"""(float[N,3,5,4] x) => (float[N,4,10,8] y)
            <float[8,3,1,1] wa, float[8,{12 // group},2,2] wt, float[4,12,1,1] wb>""",
        f"""a = Conv(x, wa) m = Mul(a, keep) s = Add(m, shift)
            t = ConvTranspose<group={group}, strides=[2,2]>(s, wt) u = Mul(t, written) y = Conv(u, wb)""",
        13,
        keep=np.tile([1, 0], 4).reshape(1, 8, 1, 1).astype(np.float32),
        written=written.reshape(1, 12, 1, 1),
        shift=np.float32(shift),
    )
    result = compiled(source)
    assert weight(result, "ConvTranspose").shape == (8 if shift else 4, 8 // group, 2, 2)
    exact(source)


TRANSPOSED = {
    "border of its own": ("kernel_shape=[3,3], strides=[2,1], pads=[1,0,2,1], output_padding=[1,0]", (3, 3)),
    "gaps": ("kernel_shape=[2,2], strides=[3,2]", (2, 2)),
    "dilated": ("kernel_shape=[3,2], strides=[2,1], dilations=[2,3]", (3, 2)),
}


@pytest.mark.parametrize(("form", "kernel"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_constants_become_a_map_in_a_transposed_convolution(form: str, kernel: tuple[int, int]) -> None:
    """Windows that overlap, or leave gaps, do not add the same everywhere, and no channel has to be there for that."""
    source = model(
        f"""(float[N,3,5,4] x) => (float[N,4,h,w] y)
            <float[8,3,1,1] wa, float[8,1,{kernel[0]},{kernel[1]}] wt, float[8] bt, float[4,8,5,5] wb>""",
        f"""a = Conv(x, wa) m = Mul(a, keep) s = Add(m, shift)
            t = ConvTranspose<group=8, {form}>(s, wt, bt) r = Relu(t) y = Conv<pads=[2,2,2,2]>(r, wb)""",
        13,
        keep=KEEP.reshape(1, 8, 1, 1),
        shift=random(8, 1, 1, seed=2),
    )
    assert weight(compiled(source), "ConvTranspose").shape[0] == 4
    exact(source, N=(1, 2))


def test_blocks_of_channels_become_steps_of_an_open_axis() -> None:
    """A pixel shuffle of sequences: the sizes are formulas of the number of steps, before and after."""
    source = model(
        "(float[N,T,3] x) => (float[N,t,2] y) <float[3,8] wa, float[4,2] wb>",
        """a = MatMul(x, wa) m = Mul(a, keep) r = Reshape(m, pairs) t = Transpose<perm=[0,1,3,2]>(r)
            n = Shape<end=1>(x) sizes = Concat<axis=0>(n, rest) s = Reshape(t, sizes) y = MatMul(s, wb)""",
        17,
        keep=np.repeat([1.0, 0.0, 0.0, 1.0], 2),
        pairs=np.array([0, 0, 4, 2]),
        rest=np.array([-1, 4]),
    )
    result = compiled(source, N=(1, 2), T=(3, 5))
    assert weight(result, "MatMul", which=0).shape[1] == 4 and weight(result, "MatMul", which=1).shape[0] == 2
    exact(source, N=(1, 2), T=(3, 5))


@pytest.mark.parametrize("order", ["channel by channel", "knot by knot"])
def test_a_masked_channel_is_one_constant_at_each_knot_of_a_spline(order: str) -> None:
    """As in layers of Kolmogorov-Arnold networks: a basis function for each knot, all merged into one axis."""
    turn, knots = ("r = Transpose<perm=[0,2,1]>(b)" if order == "knot by knot" else "r = Identity(b)"), 3
    source = model(
        f"(float[N,6] x) => (float[N,5] y) <float[6,8] w, float[{8 * knots},5] v>",
        f"h = MatMul(x, w)  m = Mul(h, keep)  u = Unsqueeze(m, last)  d = Sub(u, knots)  a = Abs(d)  f = Sub(top, a)  "
        f"b = Relu(f)  {turn}  p = Reshape(r, flat)  y = MatMul(p, v)",
        opset=18,
        constants=NUMBERS
        | {"keep": KEEP, "knots": np.array([-1, 0, 1.5], np.float32), "top": np.float32(2), "flat": np.array([0, -1])},
    )
    exact(source)
    result = compiled(source)
    assert weight(result, "MatMul").shape == (6, 4) and weight(result, "MatMul", which=1).shape == (4 * knots, 5)


def test_a_slice_with_steps_of_what_is_whole_stays() -> None:
    """As of a blur, or where a detector begins: ONNX Runtime takes half as long again for a Gather of columns."""
    source = model(
        "(float[1,3,8,8] x) => (float[1,2,4,4] y) <float[4,3,3,3] u, float[4,1,1] keep = {1, 0, 1, 0},"
        " float[2,4,1,1] v, int64[2] starts = {1, 0}, int64[2] ends = {99, 99}, int64[2] axes = {2, 3},"
        " int64[2] steps = {2, 2}>",
        "a = Conv<pads=[1,1,1,1]>(x, u) b = Mul(a, keep) c = Slice(b, starts, ends, axes, steps) y = Conv(c, v)",
    )
    result = compiled(source)
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Slice", "Slice", "Conv"]
    assert result.report.after.macs == 64 * 2 * 3 * 9 + 16 * 2 * 2


@pytest.mark.parametrize(("index", "op"), [([2, 3, 4], "Slice"), ([2, 4, 6], "Gather"), ([4, 3, 2], "Gather")])
def test_neighbours_are_sliced(index: list[int], op: str) -> None:
    source = model(
        "(float[n,5,8] x) => (float[n,5,3] y)",
        "s = Sigmoid(x) p = Gather<axis=2>(s, index) y = Softmax(p)",
        index=np.array(index),
    )
    assert op in operators(compiled(source))
