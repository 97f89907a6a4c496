"""The smallest forms of graphs that were once compiled wrongly, each named for what went wrong."""

import sys
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from passes import fix_sizes, shrink
from tests.generators.builder import Network
from tests.generators.check import check
from tests.passes.text import Array, exact, model


def graph(text: str, opset: int = 17, **constants: Any) -> ModelProto:
    """A model from its text; constants are arrays, or shapes to be filled with random numbers."""
    return model(text, None, opset, checked=False, **constants)


def zeroed(*shape: int, at: Any) -> Array:
    """Random weights, but for zeros in some places."""
    weights = np.random.default_rng(0).normal(size=shape)
    weights[at] = 0
    return weights


SIZES = {"N": (1, 3), "H": (6, 7), "W": (5, 8), "n": (2, 2), "c": (3, 1)}
# Compiled with adapters at several prices.
EXACT = {
    # the constant channel that stands for others at a padded border must not be a zero
    "carrier with the constant zero": graph(
        """(float[1,6,H,W] x) => (float[1,6,H,W] y)
        <float[6,1,1] ones = {1, 1, 1, 1, 1, 1}, float[6,1,1] keep = {0, 0, 1, 0, 1, 1}> {
            a = Conv <pads = [1,1,1,1]> (x, w1)
            b = Add(ones, a)
            c = Mul(b, keep)
            y = Conv <kernel_shape = [3,1], pads = [1,0,1,0]> (c, w2)
        }""",
        w1=zeroed(6, 6, 3, 3, at=slice(1, None)),
        w2=zeroed(6, 6, 3, 1, at=np.s_[:, :4]),
    ),
    "carrier among zero and other constants": graph(
        """(float[1,6,H,W] x) => (float[1,6,H,W] y)
        <float[6,1,1] keep = {1, 0, 1, 1, 0, 1}, float[1,6,1,1] bound = {1, -1, 0.5, -0.5, 1.5, 1}> {
            a = Mul(x, keep)
            b = Min(a, bound)
            y = Conv <pads = [1,0,1,0]> (b, w)
        }""",
        w=np.zeros((6, 6, 3, 1)),
    ),
    # as many rows as columns: the vector lies on the rows
    "scale of rows is not one of columns": graph(
        """(float[1,4,4] x) => (float[1,4,4] y) <float[4,4] w, float[4] shift, float[1,4,1] rows> {
            a = MatMul(x, w)
            b = Add(a, shift)
            y = Mul(b, rows)
        }"""
    ),
    "shift of rows behind a bias": graph(
        """(float[1,2,5,6] x) => (float[1,2,6] y)
        <float[6,6] w, float[6] shift, float[1,2,5,1] rows, int64 index = {0}> {
            a = MatMul(x, w)
            b = Add(a, shift)
            c = Sub(b, rows)
            y = Gather <axis = 2> (c, index)
        }"""
    ),
    # also when the axis was narrowed before
    "gather of one slice drops the axis": graph(
        """(float[1,6,20] x) => (float[1,6] y) <float[6,1] shift, int64 index = {15}> {
            a = Add(x, shift)
            y = Gather <axis = 2> (a, index)
        }"""
    ),
    # the axis may have one element: then the mask is a broadcast
    "mask over an unknown axis": graph(
        """(float[n,c,2,3] x) => (float[m,1,2,3] y)
        <float[3,1,1] ones = {1, 1, 1}, float[1,3,1,1] keep = {0, 0, 1}, float[1,3,3,3] w, float[1] shift> {
            a = Mul(x, ones)
            b = Mul(a, keep)
            y = Conv <auto_pad = "SAME_LOWER", kernel_shape = [3,3]> (b, w, shift)
        }""",
        13,
    ),
    # one piece is masked along an axis that the other piece needs whole
    "pieces of a split share their other axes": graph(
        """(float[1,3,9] x, float[1,3,1] z) => (float[1,3,9] y)
        <int64[2] parts = {1, 2}, float[9] keep = {1, 0, 1, 1, 0, 0, 1, 0, 1}> {
            a = Mul(x, z)
            p, q = Split <axis = 1> (a, parts)
            r = Mul(keep, q)
            y = Concat <axis = 1> (p, r)
        }""",
        18,
    ),
    "dropout with a second output": graph(
        """(float[N,5] x) => (float[N,2] y) <float[5] keep = {1, 0, 1, 0, 1}, float[5,2] w> {
            a, unread = Dropout(x)
            b = Mul(a, keep)
            y = MatMul(b, w)
        }"""
    ),
    # two additions made one, one of them of a number without axes
    "sum with a scalar and a vector": graph(
        """(float[1,4,7] x, float[2,4,3] w) => (float[1,2,4] y)
        <float one = {1}, float[1,1,2] more = {1, 1}, float[1,2,1] keep = {1, 0}> {
            a = Conv <auto_pad = "SAME_UPPER", kernel_shape = [3], strides = [2]> (x, w)
            b = Transpose <perm = [0,2,1]> (a)
            c = Add(b, one)
            d = Add(c, more)
            e = Transpose <perm = [0,2,1]> (d)
            y = Mul(keep, e)
        }""",
        21,
    ),
    # shape inference does not follow the target, though its length is known
    "reshape of unknown rank to computed sizes": graph(
        """(float[1,3,4,4] x) => (float[1,3] y)
        <float[3,1,1] keep = {1, 0, 1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] sixteen = {16},
            int64[2] flat = {1, -1}, int64 axis = {1}, float[3,3] w> {
            a = Mul(x, keep)
            s = Shape(a)
            first = Slice(s, zero, one, zero)
            n = Gather <axis = 0> (s, axis)
            m = Unsqueeze(n, zero)
            target = Concat <axis = 0> (first, one, m, sixteen)
            b = Reshape(a, target)
            c = Transpose <perm = [0,2,1,3]> (b)
            d = ReduceMean <axes = [2,3], keepdims = 0> (c)
            e = Reshape(d, flat)
            y = MatMul(e, w)
        }"""
    ),
    # its third operand has a symbolic size
    "Gemm that adds an activation": graph(
        """(float[N,6] x, float[N,1] a, float[N,3] z) => (float[N,6] y)
        <float[1,3] keep = {1, 0, 1}, int64[1] one = {1}, int64[1] two = {2}, float[1,6] w> {
            b = Mul(z, keep)
            c = Slice(b, one, two, one)
            d = Gemm <alpha = 0.5, beta = 0.25> (a, w, x)
            y = Mul(d, c)
        }""",
        21,
    ),
    # the value that would have been padded is nowhere in the result, so it is not its maximum either
    "padding by nothing": graph(
        """(float[2,2,6,5] x) => (float[2,6,1,1] y)
        <float[2,1,1] left = {1, 0}, float[2,1,1] right = {0, 1}, float[2] scale, float[2] shift, float[2] mean,
            float[2] var = {1, 1}, float[8,2,2,2] w1, float[8] b1, float[6,8,1,1] w2, float[6] b2,
            int64[8] none = {0, 0, 0, 0, 0, 0, 0, 0}, float value = {9.5}> {
            a = Mul(x, left)
            b = BatchNormalization(a, scale, shift, mean, var)
            c = Mul(b, right)
            d = Conv <kernel_shape = [2,2], pads = [0,0,0,1]> (c, w1, b1)
            e = Conv <strides = [1,2]> (d, w2, b2)
            f = Pad <mode = "constant"> (e, none, value)
            y = GlobalMaxPool(f)
        }""",
        12,
    ),
    # one output is narrowed, the other one is seen by the caller
    "second output of dropout as output of the graph": graph(
        """(float[3,4,5] x) => (float[3,4,2] y, bool[3,4,5] kept) <float[4,1] keep = {1, 0, 1, 1}> {
            a = Mul(x, keep)
            b, kept = Dropout(a)
            y = MatMul(b, w)
        }""",
        w=zeroed(5, 2, at=[1, 3]),
    ),
    # the reference evaluator computes the statistics of the batch there
    **{
        f"constants through batch norm of opset {opset}": graph(
            """(float[1,3,9] x, float[1,2,9] z) => (float[1,2,9] y)
            <float[3,1] none = {0, 0, 0}, float[3,3,1] w1, float[3] b1, float[2,3,3] w2, float[2] scale,
                float[2] shift, float[2] mean, float[2] var = {0.7, 1.3}> {
                a = Mul(x, none)
                b = Conv(a, w1, b1)
                c = Conv <kernel_shape = [3], pads = [1,1]> (b, w2)
                d = BatchNormalization(c, scale, shift, mean, var)
                y = Sub(d, z)
            }""",
            opset,
        )
        for opset in (9, 13)
    },
    "a part of no elements of constant maps": graph(
        """(float[2,3] x) => (float[2,3] y)
        <float[2,1] keep = {0, 1}, float[2,3] shift, int64[2] parts = {3, 0}> {
            a = Mul(x, keep)
            b = Add(a, shift)
            y, none = Split <axis = 1> (b, parts)
        }"""
    ),
    "a product without columns": graph(
        """(float[N,4] x) => (float[N,0] y)
        <float[4,6] v, float[6] keep = {1, 0, 1, 0, 0, 1}, float[6] shift = {1, 2, 3, 4, 5, 6}, float[6,0] w> {
            a = MatMul(x, v)
            b = Mul(a, keep)
            c = Add(b, shift)
            y = MatMul(c, w)
        }"""
    ),
    "an empty constant": graph(
        "(float[3] x) => (float[0] y, float[3] z) <float[3] keep = {1, 0, 1}> { y = Identity(empty) z = Mul(x, keep) }",
        empty=np.zeros(0, np.float32),
    ),
    # onnx counts them, and what is computed of the size would be wrong
    **{
        f"windows of {pool} that begin behind the data": graph(
            f"""(float[N,3,4] x) => (float[N,3] y)
            <float[3,1] keep = {{1, 0, 1}}, int64[1] last = {{2}}, float[3,3] w> {{
                a = Mul(x, keep)
                b = {pool} <kernel_shape = [1], strides = [2], ceil_mode = 1> (a)
                sizes = Shape(b)
                size = Gather(sizes, last)
                count = Cast <to = 1> (size)
                total = ReduceSum <keepdims = 0> (b, last)
                mean = Div(total, count)
                y = MatMul(mean, w)
            }}""",
            19,
        )
        for pool in ("MaxPool", "AveragePool", "LpPool")
    },
    # ONNX Runtime counts the latter, and does not merge; when it is gone nothing but the maximum reads the padding
    "padding that a maximum and a node without readers read": graph(
        """(float[N,3,5,5] x) => (float[N,8,3,3] y)
        <float[8,3,1,1] w, float[1] twenty = {20}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> {
            a = Conv(x, w)
            b = Sub(a, twenty)
            c = Pad(b, pads)
            i = Identity(c)
            y = MaxPool <kernel_shape = [3,3], strides = [2,2]> (i)
            e = Relu(c)
        }"""
    ),
}


@pytest.mark.parametrize("source", EXACT.values(), ids=EXACT)
def test_what_went_wrong_once(source: ModelProto) -> None:
    exact(source, **SIZES)


def test_mask_of_ones_and_nothing_else() -> None:
    """Nothing to remove is no reason to leave the mask."""
    text = "(float[2,5] x) => (float[2,5] y) { y = Mul(x, ones) }"
    shrunk = check(graph(text, ones=np.ones(5)))
    assert [node.op_type for node in shrunk.model.graph.node] == ["Identity"]


def test_mask_behind_a_reshape_of_what_stays() -> None:
    """Where the producer cannot shrink, adapters around a mask are dearer than the mask."""
    text = """(float[1,1,7,5] x) => (float[1,180] y) <float[12,1,3,1] w, float[12] shift, int64[2] flat = {0, 180}> {
        a = Conv <kernel_shape = [3,1], dilations = [2,1]> (x, w, shift)
        b = Reshape(a, flat)
        y = Mul(keep, b)
    }"""
    shrunk = check(graph(text, 13, keep=(np.random.default_rng(0).random((1, 180)) < 0.5).astype(float)))
    assert len(shrunk.model.graph.node) == 3


@pytest.mark.slow
def test_more_operators_in_a_row_than_calls_in_pythons_stack() -> None:
    assert sys.getrecursionlimit() < 1400
    lines = [f"t{k + 1} = Neg(t{k})" for k in range(1400)]
    text = "(float[N,6] x) => (float[N,3] y) { a = MatMul(x, v)\n t0 = Mul(a, keep)\n %s\n y = MatMul(t1400, w) }"
    keep = np.array([1, 0, 1, 0, 1.0])
    shrunk = check(graph(text % "\n".join(lines), v=(6, 5), keep=keep, w=(5, 3)), exact=False, twice=False)
    assert shrunk.report.after.macs == 6 * 3 + 3 * 3


@pytest.mark.parametrize(
    ("operands", "stays"), [("a, half, training", True), ("a, , training", True), ("a, half, never", False)]
)
def test_a_dropout_stays_where_the_caller_may_train_with_it(operands: str, stays: bool) -> None:
    text = f"""(float[3,4] x, bool training) => (float[3,2] y) {{
        a = Mul(x, keep)
        b = Dropout({operands})
        y = MatMul(b, w)
    }}"""
    constants = {"half": np.array(0.5), "never": np.array(False)}
    read = {name: value for name, value in constants.items() if name in operands}
    built = graph(text, keep=np.array([1, 0, 1, 1.0]), w=(4, 2), **read)
    assert ("Dropout" in {node.op_type for node in shrink(built).model.graph.node}) == stays


@pytest.mark.parametrize("axis", [1, 2])
def test_a_part_of_one_channel_that_a_scale_makes_wider(axis: int) -> None:
    text = f"""(float[N,4,4] x) => (float[N,4,4] y, float[N,a,b] z) {{
        s = Conv(x, w)
        b, c = Split<axis = {axis}> (s, sizes)
        d = Mul(b, wide)
        y = Relu(d)
        z = Relu(c)
    }}"""
    wide = np.reshape([1, 2, 3, 4.0], (4, 1) if axis == 1 else (4,))
    check(graph(text, sizes=np.array([1, 3]), wide=wide, w=(4, 4, 1)))


@pytest.mark.parametrize("opset", [10, 13, 17])
def test_padding_that_only_a_maximum_still_reads(opset: int) -> None:
    """ONNX Runtime merges zeros that nobody else reads into the pooling, where they count as minus infinity."""
    pads = "<pads = [0,0,1,1,0,0,1,1]> (b)" if opset < 11 else "(b, pads)"
    text = f"""(float[N,3,5,5] x) => (float[N,8,3,3] y) <float[8,3,1,1] w, float[1] twenty = {{20}}> {{
        a = Conv(x, w)
        b = Sub(a, twenty)
        c = Pad {pads}
        d = MaxPool <kernel_shape = [3,3], strides = [2,2]> (c)
        e = AveragePool <kernel_shape = [3,3], strides = [2,2]> (c)
        f = Mul(e, keep)
        y = Add(d, f)
    }}"""
    amounts = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])} if opset >= 11 else {}
    check(graph(text, opset, keep=np.zeros((8, 1, 1)), **amounts))


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_padding_that_is_not_smaller_than_the_kernel_of_a_pooling(pool: str, opset: int) -> None:
    """ONNX Runtime merges the two, and does not load what comes of that; NASNet has such a pooling."""
    pads = "<pads = [0,0,0,0,0,0,1,1]> (b)" if opset < 11 else "(b, pads)"
    text = f"""(float[N,3,5,5] x) => (float[N,4,3,3] y)
    <float[4,3,1,1] w, float[4,1,1] keep = {{1, 0, 1, 1}}, float[4,4,1,1] v> {{
        a = Conv(x, w)
        b = Mul(a, keep)
        c = Pad {pads}
        d = {pool} <kernel_shape = [1,1], strides = [2,2]> (c)
        y = Conv(d, v)
    }}"""
    amounts = {"pads": np.array([0, 0, 0, 0, 0, 0, 1, 1])} if opset >= 11 else {}
    check(graph(text, opset, **amounts))


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("length", ["T", "5"])
def test_padding_in_which_a_last_window_begins(pool: str, length: str) -> None:
    """ONNX Runtime merges the two, and so loses a window that the sizes of what is added later count."""
    text = f"""(float[N,2,{length}] x) => (float[N,4,a] y)
    <int64[6] pads = {{0, 0, 1, 0, 0, 1}}, float[2,1] keep = {{0, 1}}, float[3,2,1] w, float[3,1] some = {{0, 0, 1}},
        float[3,1] shift = {{1, 2, 3}}, float[4,3,3] v> {{
        a = Mul(x, keep)
        b = Pad(a, pads)
        c = {pool} <kernel_shape = [2], strides = [2], ceil_mode = 1> (b)
        d = Conv(c, w)
        e = Mul(d, some)
        f = Add(e, shift)
        y = Conv <pads = [1,1]> (f, v)
    }}"""
    exact(graph(text), T=(5, 6))


def test_question_marks_for_different_sizes() -> None:
    """Some exporters call every size they do not know "?"; two of them need not be equal."""
    source = graph(
        """(float[N,4,H,W] x) => (float[N,3,H,W] y) <float[3,4,1,1] w, float[3,1,1] none = {0, 0, 0}, float[3,1,1] t> {
        a = Conv(x, w)  b = Mul(a, none)  c = Add(b, t)  y = Sigmoid(c) }"""
    )
    for value in (*source.graph.input, *source.graph.output):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_param = "?"
    x = np.zeros((2, 4, 5, 7), np.float32)
    check(source, cases=[{"x": x}])
    fixed = fix_sizes(source, {"x": (2, 4, 5, 7)})
    assert [d.dim_value for d in fixed.graph.output[0].type.tensor_type.shape.dim] == [2, 3, 5, 7]
    check(fixed, cases=[{"x": x}])


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13])
@pytest.mark.parametrize("kind", ["int64", "bool", "float"])
def test_constants_put_back_in_types_that_old_padding_does_not_take(opset: int, kind: str) -> None:
    """Before opset 11 Pad is for floats only, before 13 for numbers only."""
    text = f"""(float[N,4] x) => ({kind}[N,8] y) <float[4,8] w, float[8] k = {{1, 1, 1, 1, 1, 0, 0, 0}}> {{
        a = MatMul(x, w)
        m = Mul(a, k)
        y = Cast <to = {TensorProto.DataType.Value(kind.upper())}> (m)
    }}"""
    exact(graph(text, opset), N=(1, 3))


@pytest.mark.parametrize("p", [1, 2])
def test_norm_of_negative_constants(p: int) -> None:
    """The reference implementation of LpNormalization takes the sum for the sum of absolute values."""
    text = f"(float[2,3] x) => (float[2,3] y) {{ n = LpNormalization<axis = 1, p = {p}>(c)  y = Add(x, n) }}"
    check(graph(text, c=np.array([[1.0, -2, 3], [0, 0, 0]])))


def test_maps_of_nothing() -> None:
    """An operator on a constant without elements."""
    check(graph("(float[2,5] x) => (float[0,5] y, float[2,5] z) { y = Abs(none)  z = Relu(x) }", none=np.zeros((0, 5))))


@pytest.mark.parametrize("width", ["W", "6"])
@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_constants_beside_a_known_map_that_others_have_computed(width: str, strength: float) -> None:
    """A convolution that would add one map for all of them is given the uneven ones, and no carrier for the rest."""
    text = f"""(float[N,3,6,{width}] x) => (float[N,2,6,{width}] y, float[N,4,6,{width}] z)
    <float[8,3,1,1] w1, float[8,1,3,3] w2, float[2,8,3,3] w3, int64[1] first = {{4}}, int64[1] last = {{8}},
        int64[1] axis = {{1}}> {{
        a = Conv(x, w1)
        b = Mul(a, keep)
        c = Add(b, shift)
        d = Conv <group = 8, pads = [1,1,1,1]> (c, w2, bias)
        y = Conv <pads = [1,1,1,1]> (d, w3)
        z = Slice(d, first, last, axis)
    }}"""
    shift, bias = np.full((8, 1, 1), 0.5), np.linspace(1, 2, 8)
    shift[:4], bias[0] = 0, strength
    source = graph(text, keep=np.zeros((8, 1, 1)), shift=shift, bias=bias)
    exact(source, **({"W": (1, 5)} if width == "W" else {}), N=(1, 2))


@pytest.mark.parametrize("start", ["Identity(at)", "Sub(at, nothing)"])
def test_sizes_from_a_start_that_is_not_known(start: str) -> None:
    """Inference takes a vector cut from an unknown start for the whole vector, and the rank of what it shapes for 5."""
    text = f"""(float[N,4,8,5] x, int64[1] at) => (float[a,b,c] y)
    <float[4,4,1,1] w, float[4,1,1] keep = {{1, 0, 1, 0}}, int64[1] four = {{4}}, int64[1] whatever = {{-1}}> {{
        sizes = Shape(x)
        start = {start}
        rest = Slice(sizes, start, four)
        shape = Concat <axis = 0> (whatever, rest)
        masked = Mul(x, keep)
        c = Conv(masked, w)
        d = Reshape(c, shape)
        y = Transpose <perm = [0, 2, 1]> (d)
    }}"""
    check(Network(graph(text, constants={"nothing": np.array([0])}), {"at": (2, 3)}, {"N": (1, 3)}))


@pytest.mark.parametrize("resized", [", , sizes", ", scales"])
def test_a_resize_along_some_axes_of_a_tensor_of_unknown_rank(resized: str) -> None:
    """The sizes that it is given were taken for all of the result, and axes could not be counted from the end."""
    text = f"""(float[N,4,8,5] x, int64[1] at) => (float[a,b,c,d] z, int64[four] y)
    <int64 zero = {{0}}, int64[3] rest = {{4, 8, 5}}, int64[3] sizes = {{4, 16, 10}}, float[3] scales = {{1, 2, 2}}> {{
        before = Shape(x)
        size = Gather(before, zero)
        batch = Unsqueeze(size, at)
        shape = Concat <axis = 0> (batch, rest)
        r = Reshape(x, shape)
        z = Resize <axes = [1, 2, 3], mode = "nearest"> (r, {resized})
        y = Shape(z)
    }}"""
    check(Network(graph(text, 18), {"at": (0, 1)}, {"N": (1, 3)}))


def test_a_product_with_zeros_behind_which_nothing_is_done() -> None:
    """A row of operators that comes to nothing takes no operator, but what it wrote must still be written."""
    text = """(float[N,5] x) => (float[N,4] y)
    <float[5,3] w, float[3] shift, float[3] none = {0, 0, 0}, float[3,4] v> {
        a = MatMul(x, w)
        b = Add(a, shift)
        m = Mul(b, none)
        s = Sigmoid(m)
        t = Mul(m, s)
        c = MatMul(t, v)
        y = Sigmoid(c)
    }"""
    check(Network(graph(text), {}, {"N": (1, 3)}))
    text = """(float[N,5] x) => (float[N,5] y) <float six = {6}, float low = {0}, float[5,5] w> {
        a = Div(x, six)  b = Clip(a, low)  c = MatMul(b, w)  y = Mul(c, six) }"""
    check(Network(graph(text), {}, {"N": (1, 3)}))
