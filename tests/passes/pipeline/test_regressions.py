"""The smallest forms of graphs that were once compiled wrongly, each named for what went wrong."""

import sys
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from passes import fix_sizes, shrink
from tests.generators.builder import Network
from tests.generators.check import check
from tests.passes.text import exact, model


def graph(text: str, opset: int = 17, **constants: Any) -> ModelProto:
    """A model from its text; constants are arrays, or shapes to be filled with random numbers."""
    return model(text, None, opset, checked=False, **constants)


def test_mask_of_ones_and_nothing_else() -> None:
    """Nothing to remove is no reason to leave the mask."""
    text = "(float[2,5] x) => (float[2,5] y) { y = Mul(x, ones) }"
    shrunk = check(graph(text, ones=np.ones(5)))
    assert [node.op_type for node in shrunk.model.graph.node] == ["Identity"]


def test_carrier_with_the_constant_zero() -> None:
    """The constant channel that stands for others at a padded border must not be a zero."""
    text = """(float[1,6,H,W] x) => (float[1,6,H,W] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1)
        b = Add(ones, a)
        c = Mul(b, keep)
        y = Conv <kernel_shape = [3,1], pads = [1,0,1,0]> (c, w2)
    }"""
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(6, 6, 3, 3)), rng.normal(size=(6, 6, 3, 1))
    w1[1:], w2[:, :4] = 0, 0
    keep = np.array([0, 0, 1, 0, 1, 1]).reshape(6, 1, 1)
    exact(graph(text, w1=w1, w2=w2, ones=np.ones((6, 1, 1)), keep=keep.astype(float)), H=(6, 7), W=(5, 8))


def test_carrier_among_zero_and_other_constants() -> None:
    text = """(float[1,6,H,W] x) => (float[1,6,H,W] y) {
        a = Mul(x, keep)
        b = Min(a, bound)
        y = Conv <pads = [1,0,1,0]> (b, w)
    }"""
    keep = np.array([1, 0, 1, 1, 0, 1.0]).reshape(6, 1, 1)
    bound = np.array([1, -1, 0.5, -0.5, 1.5, 1]).reshape(1, 6, 1, 1)
    exact(graph(text, w=np.zeros((6, 6, 3, 1)), keep=keep, bound=bound), H=(6, 7), W=(5, 8))


@pytest.mark.parametrize("opset", [9, 13])
def test_constants_through_batch_norm_of_old_opsets(opset: int) -> None:
    """The reference evaluator computes the statistics of the batch there."""
    text = """(float[1,3,9] x, float[1,2,9] z) => (float[1,2,9] y) {
        a = Mul(x, none)
        b = Conv(a, w1, b1)
        c = Conv <kernel_shape = [3], pads = [1,1]> (b, w2)
        d = BatchNormalization(c, scale, shift, mean, var)
        y = Sub(d, z)
    }"""
    source = graph(
        text,
        opset,
        none=np.zeros((3, 1)),
        w1=(3, 3, 1),
        b1=(3,),
        w2=(2, 3, 3),
        scale=(2,),
        shift=(2,),
        mean=(2,),
        var=np.array([0.7, 1.3]),
    )
    exact(source)


def test_scale_of_rows_is_not_one_of_columns() -> None:
    """As many rows as columns: the vector lies on the rows."""
    text = """(float[1,4,4] x) => (float[1,4,4] y) {
        a = MatMul(x, w)
        b = Add(a, shift)
        y = Mul(b, rows)
    }"""
    exact(graph(text, w=(4, 4), shift=(4,), rows=(1, 4, 1)))


def test_shift_of_rows_behind_a_bias() -> None:
    text = """(float[1,2,5,6] x) => (float[1,2,6] y) {
        a = MatMul(x, w)
        b = Add(a, shift)
        c = Sub(b, rows)
        y = Gather <axis = 2> (c, index)
    }"""
    exact(graph(text, w=(6, 6), shift=(6,), rows=(1, 2, 5, 1), index=np.array(0)))


def test_gather_of_one_slice_drops_the_axis() -> None:
    """Also when the axis was narrowed before."""
    text = """(float[1,6,20] x) => (float[1,6] y) {
        a = Add(x, shift)
        y = Gather <axis = 2> (a, index)
    }"""
    exact(graph(text, shift=(6, 1), index=np.array(15)))


def test_mask_over_an_unknown_axis() -> None:
    """The axis may have one element: then the mask is a broadcast."""
    text = """(float[n,c,2,3] x) => (float[m,1,2,3] y) {
        a = Mul(x, ones)
        b = Mul(a, keep)
        y = Conv <auto_pad = "SAME_LOWER", kernel_shape = [3,3]> (b, w, shift)
    }"""
    source = graph(
        text, 13, ones=np.ones((3, 1, 1)), keep=np.array([0, 0, 1.0]).reshape(1, 3, 1, 1), w=(1, 3, 3, 3), shift=(1,)
    )
    exact(source, n=(2, 2), c=(3, 1))


def test_pieces_of_a_split_share_their_other_axes() -> None:
    """One piece is masked along an axis that the other piece needs whole."""
    text = """(float[1,3,9] x, float[1,3,1] z) => (float[1,3,9] y) {
        a = Mul(x, z)
        p, q = Split <axis = 1> (a, parts)
        r = Mul(keep, q)
        y = Concat <axis = 1> (p, r)
    }"""
    keep = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1.0])
    exact(graph(text, 18, parts=np.array([1, 2]), keep=keep))


def test_dropout_with_a_second_output() -> None:
    text = """(float[N,5] x) => (float[N,2] y) {
        a, unread = Dropout(x)
        b = Mul(a, keep)
        y = MatMul(b, w)
    }"""
    exact(graph(text, keep=np.array([1, 0, 1, 0, 1.0]), w=(5, 2)), N=(1, 3))


def test_sum_with_a_scalar_and_a_vector() -> None:
    """Two additions made one, one of them of a number without axes."""
    text = """(float[1,4,7] x, float[2,4,3] w) => (float[1,2,4] y) {
        a = Conv <auto_pad = "SAME_UPPER", kernel_shape = [3], strides = [2]> (x, w)
        b = Transpose <perm = [0,2,1]> (a)
        c = Add(b, one)
        d = Add(c, more)
        e = Transpose <perm = [0,2,1]> (d)
        y = Mul(keep, e)
    }"""
    keep = np.array([1, 0.0]).reshape(1, 2, 1)
    exact(graph(text, 21, one=np.array(1.0), more=np.ones((1, 1, 2)), keep=keep))


def test_reshape_of_unknown_rank_to_computed_sizes() -> None:
    """Shape inference does not follow the target, though its length is known."""
    text = """(float[1,3,4,4] x) => (float[1,3] y) {
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
    numbers = {"zero": [0], "one": [1], "sixteen": [16], "flat": [1, -1]}
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    keep = np.array([1, 0, 1.0]).reshape(3, 1, 1)
    exact(graph(text, keep=keep, axis=np.array(1), w=(3, 3), **constants))


def test_split_of_an_empty_constant() -> None:
    text = """(float[3] x) => (float[0] y, float[3] z) {
        y = Identity(empty)
        z = Mul(x, keep)
    }"""
    check(graph(text, empty=np.zeros(0, np.float32), keep=np.array([1, 0, 1.0])))


def test_gemm_that_adds_an_activation() -> None:
    """Its third operand has a symbolic size."""
    text = """(float[N,6] x, float[N,1] a, float[N,3] z) => (float[N,6] y) {
        b = Mul(z, keep)
        c = Slice(b, one, two, one)
        d = Gemm <alpha = 0.5, beta = 0.25> (a, w, x)
        y = Mul(d, c)
    }"""
    one, two = np.array([1]), np.array([2])
    exact(graph(text, 21, keep=np.array([1, 0, 1.0]).reshape(1, 3), one=one, two=two, w=(1, 6)), N=(1, 3))


def test_padding_by_nothing() -> None:
    """The value that would have been padded is nowhere in the result, so it is not its maximum either."""
    text = """(float[2,2,6,5] x) => (float[2,6,1,1] y) {
        a = Mul(x, left)
        b = BatchNormalization(a, scale, shift, mean, var)
        c = Mul(b, right)
        d = Conv <kernel_shape = [2,2], pads = [0,0,0,1]> (c, w1, b1)
        e = Conv <strides = [1,2]> (d, w2, b2)
        f = Pad <mode = "constant"> (e, none, value)
        y = GlobalMaxPool(f)
    }"""
    left, right = (np.array(v, float).reshape(2, 1, 1) for v in ([1, 0], [0, 1]))
    source = graph(
        text,
        12,
        left=left,
        right=right,
        scale=(2,),
        shift=(2,),
        mean=(2,),
        var=np.ones(2),
        w1=(8, 2, 2, 2),
        b1=(8,),
        w2=(6, 8, 1, 1),
        b2=(6,),
        none=np.zeros(8, np.int64),
        value=np.array(9.5),
    )
    exact(source)


def test_mask_behind_a_reshape_of_what_stays() -> None:
    """Where the producer cannot shrink, adapters around a mask are dearer than the mask."""
    text = """(float[1,1,7,5] x) => (float[1,180] y) {
        a = Conv <kernel_shape = [3,1], dilations = [2,1]> (x, w, shift)
        b = Reshape(a, flat)
        y = Mul(keep, b)
    }"""
    keep = (np.random.default_rng(0).random((1, 180)) < 0.5).astype(float)
    shrunk = check(graph(text, 13, w=(12, 1, 3, 1), shift=(12,), flat=np.array([0, 180]), keep=keep))
    assert len(shrunk.model.graph.node) == 3


def test_more_operators_in_a_row_than_calls_in_pythons_stack() -> None:
    assert sys.getrecursionlimit() < 1400
    lines = [f"t{k + 1} = Neg(t{k})" for k in range(1400)]
    text = "(float[N,6] x) => (float[N,3] y) { a = MatMul(x, v)\n t0 = Mul(a, keep)\n %s\n y = MatMul(t1400, w) }"
    keep = np.array([1, 0, 1, 0, 1.0])
    shrunk = check(graph(text % "\n".join(lines), v=(6, 5), keep=keep, w=(5, 3)), exact=False, twice=False)
    assert shrunk.report.after.macs == 6 * 3 + 3 * 3


def test_second_output_of_dropout_as_output_of_the_graph() -> None:
    """One output is narrowed, the other one is seen by the caller."""
    text = """(float[3,4,5] x) => (float[3,4,2] y, bool[3,4,5] kept) {
        a = Mul(x, keep)
        b, kept = Dropout(a)
        y = MatMul(b, w)
    }"""
    w = np.random.default_rng(0).normal(size=(5, 2))
    w[[1, 3]] = 0
    exact(graph(text, keep=np.array([1, 0, 1, 1.0]).reshape(4, 1), w=w))


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
    text = """(float[N,3,5,5] x) => (float[N,8,3,3] y) {
        a = Conv(x, w)
        b = Sub(a, twenty)
        c = Pad %s
        d = MaxPool <kernel_shape = [3,3], strides = [2,2]> (c)
        e = AveragePool <kernel_shape = [3,3], strides = [2,2]> (c)
        f = Mul(e, keep)
        y = Add(d, f)
    }"""
    constants = {"w": (8, 3, 1, 1), "twenty": np.full((1,), 20.0), "keep": np.zeros((8, 1, 1))}
    if opset >= 11:
        constants["pads"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    check(graph(text % pads, opset, **constants))


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_padding_that_is_not_smaller_than_the_kernel_of_a_pooling(pool: str, opset: int) -> None:
    """ONNX Runtime merges the two, and does not load what comes of that; NASNet has such a pooling."""
    pads = "<pads = [0,0,0,0,0,0,1,1]> (b)" if opset < 11 else "(b, pads)"
    text = f"""(float[N,3,5,5] x) => (float[N,4,3,3] y) {{
        a = Conv(x, w)
        b = Mul(a, keep)
        c = Pad {pads}
        d = {pool} <kernel_shape = [1,1], strides = [2,2]> (c)
        y = Conv(d, v)
    }}"""
    keep = np.array([1, 0, 1, 1.0]).reshape(4, 1, 1)
    amounts = {"pads": np.array([0, 0, 0, 0, 0, 0, 1, 1])} if opset >= 11 else {}
    check(graph(text, opset, w=(4, 3, 1, 1), v=(4, 4, 1, 1), keep=keep, **amounts))


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("length", ["T", "5"])
def test_padding_in_which_a_last_window_begins(pool: str, length: str) -> None:
    """ONNX Runtime merges the two, and so loses a window that the sizes of what is added later count."""
    text = f"""(float[N,2,{length}] x) => (float[N,4,a] y) {{
        a = Mul(x, keep)
        b = Pad(a, pads)
        c = {pool} <kernel_shape = [2], strides = [2], ceil_mode = 1> (b)
        d = Conv(c, w)
        e = Mul(d, some)
        f = Add(e, shift)
        y = Conv <pads = [1,1]> (f, v)
    }}"""
    keep, some, shift = (np.reshape(column, (-1, 1)) for column in ([0, 1.0], [0, 0, 1.0], [1, 2, 3.0]))
    pads = np.array([0, 0, 1, 0, 0, 1])
    source = graph(text, pads=pads, keep=keep, some=some, shift=shift, w=(3, 2, 1), v=(4, 3, 3))
    exact(source, T=(5, 6))


def test_padding_that_a_maximum_and_a_node_without_readers_read() -> None:
    """ONNX Runtime counts the latter, and does not merge; when it is gone nothing but the maximum reads the padding."""
    text = """(float[N,3,5,5] x) => (float[N,8,3,3] y) {
        a = Conv(x, w)
        b = Sub(a, twenty)
        c = Pad(b, pads)
        i = Identity(c)
        y = MaxPool <kernel_shape = [3,3], strides = [2,2]> (i)
        e = Relu(c)
    }"""
    check(graph(text, w=(8, 3, 1, 1), twenty=np.full((1,), 20.0), pads=np.array([0, 0, 1, 1, 0, 0, 1, 1])))


def test_question_marks_for_different_sizes() -> None:
    """Some exporters call every size they do not know "?"; two of them need not be equal."""
    source = graph(
        "(float[N,4,H,W] x) => (float[N,3,H,W] y) { a = Conv(x, w)  b = Mul(a, none)  c = Add(b, t)  y = Sigmoid(c) }",
        w=(3, 4, 1, 1),
        none=np.zeros((3, 1, 1)),
        t=(3, 1, 1),
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
    exact(
        graph(
            f"(float[N,4] x) => ({kind}[N,8] y) {{\n"
            f"a = MatMul(x, w)\n m = Mul(a, k)\n y = Cast<to={TensorProto.DataType.Value(kind.upper())}>(m) }}",
            opset=opset,
            w=(4, 8),
            k=np.array([1.0, 1, 1, 1, 1, 0, 0, 0]),
        ),
        N=(1, 3),
    )


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
    text = f"""(float[N,3,6,{width}] x) => (float[N,2,6,{width}] y, float[N,4,6,{width}] z) {{
        a = Conv(x, w1)
        b = Mul(a, keep)
        c = Add(b, shift)
        d = Conv <group = 8, pads = [1,1,1,1]> (c, w2, bias)
        y = Conv <pads = [1,1,1,1]> (d, w3)
        z = Slice(d, first, last, axis)
    }}"""
    shift, bias = np.full((8, 1, 1), 0.5), np.linspace(1, 2, 8)
    shift[:4], bias[0] = 0, strength
    source = graph(
        text,
        w1=(8, 3, 1, 1),
        w2=(8, 1, 3, 3),
        w3=(2, 8, 3, 3),
        keep=np.zeros((8, 1, 1)),
        shift=shift,
        bias=bias,
        first=np.array([4]),
        last=np.array([8]),
        axis=np.array([1]),
    )
    exact(source, **({"W": (1, 5)} if width == "W" else {}), N=(1, 2))


@pytest.mark.parametrize("start", ["Identity(at)", "Sub(at, nothing)"])
def test_sizes_from_a_start_that_is_not_known(start: str) -> None:
    """Inference takes a vector cut from an unknown start for the whole vector, and the rank of what it shapes for 5."""
    text = f"""(float[N,4,8,5] x, int64[1] at) => (float[a,b,c] y) {{
        sizes = Shape(x)
        start = {start}
        rest = Slice(sizes, start, four)
        shape = Concat <axis = 0> (whatever, rest)
        masked = Mul(x, keep)
        c = Conv(masked, w)
        d = Reshape(c, shape)
        y = Transpose <perm = [0, 2, 1]> (d)
    }}"""
    keep = np.array([1.0, 0, 1, 0]).reshape(4, 1, 1)
    numbers = {"nothing": np.array([0]), "four": np.array([4]), "whatever": np.array([-1])}
    source = graph(text, w=(4, 4, 1, 1), keep=keep, **numbers)
    check(Network(source, {"at": (2, 3)}, {"N": (1, 3)}))


def test_a_product_with_zeros_behind_which_nothing_is_done() -> None:
    """A row of operators that comes to nothing takes no operator, but what it wrote must still be written."""
    text = """(float[N,5] x) => (float[N,4] y) {
        a = MatMul(x, w)
        b = Add(a, shift)
        m = Mul(b, none)
        s = Sigmoid(m)
        t = Mul(m, s)
        c = MatMul(t, v)
        y = Sigmoid(c)
    }"""
    check(Network(graph(text, w=(5, 3), shift=(3,), none=np.zeros(3), v=(3, 4)), {}, {"N": (1, 3)}))
    text = "(float[N,5] x) => (float[N,5] y) { a = Div(x, six)  b = Clip(a, low)  c = MatMul(b, w)  y = Mul(c, six) }"
    check(Network(graph(text, six=np.array(6.0), low=np.array(0.0), w=(5, 5)), {}, {"N": (1, 3)}))
